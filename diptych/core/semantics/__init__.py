"""What both backends must mean alike, written once against the array API standard.

Every function takes the array namespace `xp` first; each backend binds its own once, in `ops`.
Letters of the shapes: B batch, T target length, S source length, V vocabulary, C classes.
"""
