"""Models as folders: making, loading, measuring, asking and publishing them."""
