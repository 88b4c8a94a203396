"""The continuous training daemon: JSONL files dropped into an inbox become a better model.

It stands on Thirdshift's public API. Reading order: ``daemon`` (the loop), ``intake``, ``session`` and ``chores`` (its
three hands), ``tasks`` (what runs in child processes), ``file_training`` (the steps of one file).
"""
