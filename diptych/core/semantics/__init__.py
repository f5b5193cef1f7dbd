"""Computations that must be the same in both backends, written against the array API standard.

Every function takes the array namespace `xp`, or the backend's functions `ops`, first.
Letters of the shapes: B batch, T target length, S source length, V vocabulary, C classes.
"""
