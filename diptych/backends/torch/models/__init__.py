"""One file per family, named as in `core/models`."""
