"""Why a task is where it is, as data: what an engine answers to ``why``, most telling first.

A :class:`Reason` is a code and the facts that belong to it; the sentence for people is formed at the edge
(``monitor/reasons.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class ReasonCode(Enum):
    """What is said; each member names its facts."""

    FINISHED = "finished"
    """``status``, ``at``, ``attempts``, ``error`` (text of the last attempt's, or ``None``), ``cause`` (``None``, or
    ``id``, ``name`` and ``status`` of the task whose end has cancelled this one)."""
    RUNNING = "running"
    """``worker``, ``attempt``, ``since``."""
    CANCEL_REQUESTED = "cancel_requested"
    """``since``: the worker was told to stop it."""
    OVERRUN = "overrun"
    """``timeout_s``, ``since``, ``pool``: its time limit has passed and it still runs."""
    WORKER_DIED = "worker_died"
    """``worker``: a live worker takes the task over."""
    NOT_DUE = "not_due"
    """``due_at``."""
    RETRYING = "retrying"
    """``due_at``, ``failures``, ``max_retries``, ``error``."""
    WAITING = "waiting"
    """``count``: so many unfinished tasks are waited for; ``parents``: ``id``, ``name`` and ``status`` of the first."""
    QUEUE_PAUSED = "queue_paused"
    """``queue``, ``since``."""
    NO_WORKER = "no_worker"
    """No worker is alive."""
    NO_WORKER_FOR_QUEUE = "no_worker_for_queue"
    """``queue``, ``workers``: so many are alive, and none takes this queue."""
    NO_WORKER_FOR_POOL = "no_worker_for_pool"
    """``queue``, ``pool``, ``workers``: so many take the queue, and none has this pool."""
    KEY_LIMITED = "key_limited"
    """``key``, ``concurrency``, ``tasks``: the ids of those that run with its limit key, and no more may."""
    QUEUE_LIMITED = "queue_limited"
    """``queue``, ``concurrency``: so many of its tasks run, and no more may."""
    RATE_LIMITED = "rate_limited"
    """``queue``, ``rate`` (starts a second), ``free_at``: when the next start is allowed, for the first in the line."""
    UNKNOWN_FUNCTION = "unknown_function"
    """``function``, ``workers`` (``worker``, ``error`` and ``at`` of each that could not find it), ``others``: so many
    more take the task and may find it."""
    SLOTS_BUSY = "slots_busy"
    """``pool``, ``slots``: of all workers that could take it."""
    TASKS_BEFORE = "tasks_before"
    """``count``, ``is_all``: more urgent tasks for the same slots; counting stops at a limit."""
    SCHEDULE = "schedule"
    """The id is that of a schedule: ``name``, ``words``, ``state``, ``next_at``, ``last_at``, ``is_late`` (nobody makes
    its tasks)."""
    NEXT = "next"
    """Nothing holds it back: a worker is about to take it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """One reason. The facts are plain values and aware moments."""

    code: ReasonCode
    facts: Mapping[str, Any] = field(default_factory=dict)
