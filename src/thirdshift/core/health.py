"""How a store and its workers are, as data: what an engine answers to ``examine``.

A :class:`Finding` is a code, whether that is as it should be, and the facts that belong to it; the words for people,
and what to do, are formed at the edge (``monitor/health.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class HealthLevel(Enum):
    """How much is looked at."""

    MINIMAL = "minimal"
    """The store answers and somebody works: cheap enough for every few seconds."""
    COMPLETE = "complete"
    """All that can be seen from outside; reads the whole file, for a bounded time."""
    DOCTOR = "doctor"
    """All of that, and what may do harm one day: the library, the file's neighbours, the code that tasks need."""


class HealthCode(Enum):
    """What was looked at; each member names its facts."""

    STORE = "store"
    """``database``: it opened and answered."""
    WORKERS = "workers"
    """``alive``, ``dead``: how many registered workers hold their lock, and how many do not any more."""
    WRITING = "writing"
    """``wait_s``: how long the write lock had to be waited for."""
    INTEGRITY = "integrity"
    """``problems`` (SQLite's words), ``is_whole`` (False: the time was up before the end), ``limit_s``."""
    LOG = "log"
    """``size_bytes`` of the write-ahead log, ``limit_bytes``."""
    LEFT_BEHIND = "left_behind"
    """``tasks`` that dead ``workers`` still hold."""
    OLDEST_TASK = "oldest_task"
    """``age_s`` (``None``: nothing waits), ``queue``, ``limit_s``."""
    DISK = "disk"
    """``free_bytes``, ``limit_bytes``, ``folder``."""
    WAKE_UPS = "wake_ups"
    """``silent``: process ids of live workers that did not answer a wake-up; ``answered``: how many did."""
    UNKNOWN_FUNCTIONS = "unknown_functions"
    """``functions``: ``function``, number of ``workers`` that could not find it lately, ``waits_s`` for one that can;
    ``alive``: how many workers there are."""
    LOST_WAKES = "lost_wakes"
    """``count`` since the live workers started, ``seconds_ago`` (``None``: never), ``recent_s``."""
    SCHEDULES = "schedules"
    """``active``: how many there are; ``late``: fire times that nobody has acted on, ``name`` and ``late_s``."""
    FILE_SYSTEM = "file_system"
    """``type`` of the one that holds the file at ``path``; ``None``: not to be seen. Unhealthy: another machine's."""
    LIBRARY = "library"
    """``version`` of SQLite, ``has_race`` (:func:`has_reset_race`), ``files``: libraries in this process, if known."""
    STRANGERS = "strangers"
    """``programs`` that have the file open and are none of ours (``pid``, ``name``; ``None``: not to be seen here),
    ``has_race``."""
    STALE_WORKERS = "stale_workers"
    """``workers`` that are registered and do not hold their lock any more: ``id``, ``pid``, ``name``."""
    STALE_LOCKS = "stale_locks"
    """``files``: those of workers that are not registered, whose locks nobody holds."""
    ORPHANS = "orphans"
    """``children`` that still run though their worker is dead: ``worker``, ``pid``."""
    PERMISSIONS = "permissions"
    """``open``: the files that others than their owner may read or write, each ``path`` and ``mode``."""
    FREE_SPACE = "free_space"
    """``free_bytes`` inside the file, of its ``size_bytes``, ``limit_bytes``."""
    CLOCK = "clock"
    """``ahead_s``: how far the newest submit lies in the future, 0 when it does not; ``limit_s``."""
    FUNCTIONS = "functions"
    """``count`` of functions that unfinished tasks call, ``missing`` of them: ``function``, ``tasks``, ``error``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at. The facts are plain values."""

    code: HealthCode
    is_healthy: bool
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthLimits:
    """From where on something is no longer as it should be."""

    check_s: float = 10.0
    """Longest time for the check of the whole file."""
    oldest_task_s: float = 3600.0
    """Longest time that a runnable task may have waited."""
    free_bytes: int = 200_000_000
    """Least space on the database's disk: room for a log and for what SQLite does beside it."""
    log_bytes: int = 64_000_000
    """Longest write-ahead log; workers keep it at a few megabytes."""
    answer_s: float = 2.0
    """Longest time until a worker answers a wake-up, or has taken over what a dead one left."""
    recent_s: float = 600.0
    """For how long a lost wake-up counts."""
    unused_bytes: int = 100_000_000
    """Most free space inside the file, when it is more than half of it."""
    ahead_s: float = 60.0
    """How far the newest submit may lie in the future."""


def has_reset_race(version: tuple[int, int, int]) -> bool:
    """Return whether SQLite *version* may damage a file when two programs checkpoint and write at the wrong moments.

    Mended in 3.51.3, and in 3.50.7 and 3.44.6 for those series (sqlite.org/wal.html, "The WAL-reset bug").
    """
    is_mended = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    return not is_mended


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Return whether all is as it should be."""
    return all(finding.is_healthy for finding in findings)
