"""The loops that run tasks. They know the engine contract and no engine."""
