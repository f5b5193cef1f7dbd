"""Weights on disk: slots and matching, old dialects, and readers and writers that need no framework."""
