"""Where functions run. ``slots`` holds the contract and what all pools share; each kind has its own file."""
