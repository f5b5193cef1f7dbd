"""One file per family: its configs, output records, and the deviations of its published files."""
