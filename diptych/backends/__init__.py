"""The two backends; neither imports the other."""
