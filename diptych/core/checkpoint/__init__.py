"""Weights on disk: slots and matching, old names, and framework-free readers and writers."""
