"""How long finished tasks are kept: by age and by number for each status. Unfinished tasks are never pruned."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from thirdshift.core.status import TaskStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """Which finished tasks of one status go: those that finished *before* a moment, and all but the newest *rows*.

    ``None``: no such limit.
    """

    before: datetime | None = None
    rows: int | None = None


Limits = Mapping[TaskStatus, Limit]


@dataclass(frozen=True, kw_only=True)
class PruningConfig:
    """How long finished tasks are kept, with their attempts and results. ``null``: without limit."""

    enabled: bool = True
    """Whether workers prune by themselves; ``thirdshift tasks prune`` does it in any case."""

    completed_days: float | None = 7.0
    """Days for which completed tasks are kept."""

    failed_days: float | None = 30.0
    """Days for which tasks are kept that failed for good."""

    cancelled_days: float | None = 30.0
    """Days for which cancelled tasks are kept."""

    completed_rows: int | None = 1_000_000
    """Most completed tasks that are kept, the newest."""

    failed_rows: int | None = 1_000_000
    """Most tasks that are kept that failed for good, the newest."""

    cancelled_rows: int | None = 1_000_000
    """Most cancelled tasks that are kept, the newest."""

    def __post_init__(self) -> None:
        for name, least in (("days", 0.0), ("rows", 0)):
            for status in ("completed", "failed", "cancelled"):
                value = getattr(self, f"{status}_{name}")
                if value is not None and not least <= value < math.inf:
                    raise ValueError(f"{status}_{name} is {value}; it must be {least:g} or more, or null for no limit")

    def limits(self, now: datetime) -> Limits:
        """Return what is to go at the moment *now*."""
        return {
            TaskStatus.COMPLETED: Limit(before=_ago(now, self.completed_days), rows=self.completed_rows),
            TaskStatus.FAILED: Limit(before=_ago(now, self.failed_days), rows=self.failed_rows),
            TaskStatus.CANCELLED: Limit(before=_ago(now, self.cancelled_days), rows=self.cancelled_rows),
        }


def _ago(now: datetime, days: float | None) -> datetime | None:
    try:
        return None if days is None else now - timedelta(days=days)
    except OverflowError:  # before the first moment that there is
        return None
