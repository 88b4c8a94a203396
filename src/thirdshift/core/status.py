"""What a task can be, and how it may change: the one list that the store enforces too.

::

    submit ──> pending ──claim──> running ──> completed
                 ^  ^                │ │ └──> cancelled
                 │  └─── promote ────┘ └────> failed
             scheduled   retrying <──┘

``scheduled`` and ``retrying`` wait for a moment and are promoted to ``pending`` when it has come; ``waiting`` waits for
other tasks, and becomes ``pending`` or ``scheduled`` when these have finished as it needs them to. A submit that
replaces what has not started may put it off. A finished task changes only by an explicit retry, its own or that of the
task whose failing had cancelled it.
"""

from enum import Enum, IntEnum


class TaskStatus(Enum):
    """The status of a task; ``value`` is the lower-case word."""

    PENDING = "pending"
    """Runnable: the next free slot takes it."""
    SCHEDULED = "scheduled"
    """Due later."""
    WAITING = "waiting"
    """Waits for other tasks."""
    RUNNING = "running"
    """A worker holds it."""
    RETRYING = "retrying"
    """An attempt failed; the next one is due later."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        """True when the task changes only by an explicit retry."""
        return self in FINISHED


FINISHED = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class TaskPriority(IntEnum):
    """A higher priority starts first; equal ones start in order of submission."""

    LOW = 0
    NORMAL = 10
    HIGH = 20
    CRITICAL = 30


TRANSITIONS: frozenset[tuple[TaskStatus, TaskStatus]] = frozenset(
    {
        (TaskStatus.PENDING, TaskStatus.RUNNING),  # claim
        (TaskStatus.PENDING, TaskStatus.CANCELLED),  # cancel
        (TaskStatus.PENDING, TaskStatus.SCHEDULED),  # replaced by one that is due later
        (TaskStatus.SCHEDULED, TaskStatus.PENDING),  # promote
        (TaskStatus.SCHEDULED, TaskStatus.CANCELLED),  # cancel
        (TaskStatus.WAITING, TaskStatus.PENDING),  # the last parent finished
        (TaskStatus.WAITING, TaskStatus.SCHEDULED),  # the last parent finished, due later
        (TaskStatus.WAITING, TaskStatus.CANCELLED),  # cancel, or a parent failed
        (TaskStatus.RETRYING, TaskStatus.PENDING),  # promote
        (TaskStatus.RETRYING, TaskStatus.CANCELLED),  # cancel
        (TaskStatus.RETRYING, TaskStatus.SCHEDULED),  # replaced by one that is due later
        (TaskStatus.PENDING, TaskStatus.WAITING),  # replaced by one that waits
        (TaskStatus.SCHEDULED, TaskStatus.WAITING),  # replaced by one that waits
        (TaskStatus.RETRYING, TaskStatus.WAITING),  # replaced by one that waits
        (TaskStatus.RUNNING, TaskStatus.COMPLETED),  # settle
        (TaskStatus.RUNNING, TaskStatus.FAILED),  # settle
        (TaskStatus.RUNNING, TaskStatus.CANCELLED),  # settle
        (TaskStatus.RUNNING, TaskStatus.RETRYING),  # settle: a failure with retries left
        (TaskStatus.RUNNING, TaskStatus.SCHEDULED),  # settle: the function asked to be run later
        (TaskStatus.RUNNING, TaskStatus.PENDING),  # give back (shutdown, rescue), or again at once
        (TaskStatus.COMPLETED, TaskStatus.PENDING),  # explicit retry
        (TaskStatus.FAILED, TaskStatus.PENDING),  # explicit retry
        (TaskStatus.CANCELLED, TaskStatus.PENDING),  # explicit retry
        (TaskStatus.COMPLETED, TaskStatus.WAITING),  # explicit retry, while what it waits for runs again
        (TaskStatus.FAILED, TaskStatus.WAITING),  # explicit retry, as above
        (TaskStatus.CANCELLED, TaskStatus.WAITING),  # explicit retry, also of the parent whose end had cancelled it
    }
)
"""Every legal change of a task's status."""
