"""The training of one file, from its plan to its publication."""
