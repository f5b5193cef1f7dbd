"""Everything that needs no framework: configs, semantics, checkpoints."""
