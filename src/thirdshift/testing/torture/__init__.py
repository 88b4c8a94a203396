"""Harnesses that break things on purpose, behind ``thirdshift torture``; see docs/torture.md.

Each makes its cases by number, so that one can be made again, judges them by what was promised, and has planted faults
that it must find. The history checker (``checker``) shares no code with what it judges.
"""
