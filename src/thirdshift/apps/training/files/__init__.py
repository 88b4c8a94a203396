"""The line of files that wait for training. The place of a file is its state."""
