"""What needs no framework: configs, meaning, checkpoints."""
