"""What users and our own tests share: a clock to turn, signals to await, and the suites that every engine passes.

Nothing here is imported by the rest of the package. ``conformance`` needs pytest; the others need nothing.
"""
