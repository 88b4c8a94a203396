"""Checkpoints and snapshots: state on disk that is whole or not there."""
