"""The plan of a file: which rows are trained in which step, and how they lie in front of the model."""
