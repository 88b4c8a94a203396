"""What became of each file, and what a person may want to see of it."""
