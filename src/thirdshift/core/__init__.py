"""Nouns and rules, pure: no I/O, no clock, no threads. Everything else in Thirdshift speaks in these words."""
