"""Interfaces that people know from elsewhere, on the public API."""
