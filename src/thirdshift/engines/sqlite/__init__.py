"""The embedded engine: every task lives in one SQLite file on a local disk. Reading order: ``engine``, ``writer``,
``connection``, then ``sql/`` and ``migrations/``."""

from thirdshift.engines.sqlite.engine import SQLiteEngine

__all__ = ["SQLiteEngine"]
