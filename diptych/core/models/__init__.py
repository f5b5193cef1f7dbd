"""One file per family: its configs, output records, and how its published files deviate."""
