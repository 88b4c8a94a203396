"""The daemon: one loop, and those whom it asks in turn."""
