"""What is trained: lines of a file as rows, rows as tokens, and which of them are kept for later."""
