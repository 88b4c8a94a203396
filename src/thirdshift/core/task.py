"""The task and its attempts, as values.

:class:`NewTask` is what a submitter asks for, :class:`Claim` what a worker needs to run one attempt,
:class:`BackgroundTask` what everybody may read. Those that every task passes through are named tuples:
they cost a third of a frozen dataclass to make.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple, NewType

from thirdshift.core import codec
from thirdshift.core.dependency import Dependency
from thirdshift.core.status import TaskPriority, TaskStatus

TaskId = NewType("TaskId", str)
"""32 hexadecimal digits, unique for ever; chosen by the submitter, so that submitting again is safe."""


class PoolKind(Enum):
    """Where a function runs."""

    THREAD = "thread"
    PROCESS = "process"
    ASYNC = "async"


class AttemptOutcome(Enum):
    """How one attempt ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    """The function raised, or its result could not be stored."""
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """The worker stopped or died; uses up no retry."""
    SNOOZED = "snoozed"
    """The function asked to be run again later; uses up no retry."""


class OnConflict(Enum):
    """What becomes of a submit whose unique key another task holds."""

    KEEP = "keep"
    """It makes no task and leads to the one that holds the key."""
    REPLACE = "replace"
    """So it does, and the holder becomes what was submitted if it has not started."""
    ERROR = "error"
    """It is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UniqueKey:
    """A text that one unfinished task of the whole store may have.

    With *period_s* the key is held for so many seconds from the submit too, whatever becomes of the task.
    """

    key: str
    period_s: float | None = None
    on_conflict: OnConflict = OnConflict.KEEP


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """All about a new task but its call. ``run_at`` is aware, or ``None`` for now; limits are in seconds."""

    name: str
    function: str
    queue: str
    pool: PoolKind
    priority: int = TaskPriority.NORMAL
    run_at: datetime | None = None
    max_retries: int = 3
    timeout_s: float | None = None
    tags: tuple[str, ...] = ()
    durable: bool = True
    stall_timeout_s: float | None = None
    unique: UniqueKey | None = None
    after: tuple[Dependency, ...] = ()
    """What it waits for."""
    limit_key: str | None = None
    """Tasks of one limit key run one at a time, or as many at once as was said of the key."""


class NewTask(NamedTuple):
    """One task to be stored. The calls of one submit share their *spec*."""

    id: TaskId
    arguments: bytes
    spec: TaskSpec


class Claim(NamedTuple):
    """One attempt that a worker holds. ``(seq, id, attempt, owner)`` is its fence."""

    seq: int
    id: TaskId
    attempt: int
    owner: str
    name: str
    function: str
    arguments: bytes
    queue: str
    pool: PoolKind
    priority: int
    failures: int
    max_retries: int
    timeout_s: float | None
    durable: bool
    claimed_at: datetime
    crashes: int = 0
    """How often in a row a process died while it ran this task, without progress in between."""
    stall_timeout_s: float | None = None
    limit_key: str | None = None
    schedule: str | None = None
    """The name of the schedule that made the task."""
    scheduled_for: datetime | None = None
    """The fire time that it was made for."""

    @property
    def shortest_limit_s(self) -> float | None:
        """The time limit that an attempt can reach first; ``None``: it may go on for ever."""
        if self.timeout_s is None or self.stall_timeout_s is None:
            return self.stall_timeout_s if self.timeout_s is None else self.timeout_s
        return min(self.timeout_s, self.stall_timeout_s)


class Fence(NamedTuple):
    """What an attempt needs to record its own end, in whatever process it runs."""

    join: str
    """See :attr:`thirdshift.core.engine.Capabilities.join`."""
    location: str
    seq: int
    id: TaskId
    attempt: int
    owner: str
    durable: bool
    is_counted: bool = False
    """Whether its end counts in the figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskError:
    """What an attempt raised: the exception's class name, its message and the formatted traceback if there is one."""

    type: str
    message: str
    traceback: str | None = None
    where: tuple[str, ...] = ()
    """The innermost functions of the application that it came through, ``module:name``, where it was raised first."""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"

    @property
    def fingerprint(self) -> str:
        """What errors of one cause share, ``ValueError@shop.mail:send,shop.jobs:run``: no values, no line numbers."""
        return f"{self.type}@{','.join(self.where)}" if self.where else self.type


class Traces(NamedTuple):
    """What an attempt used and what it wrote. ``None``: not measured, or nothing was written.

    Of each text the last 64 KiB are kept; its first line says how much was left out.
    """

    cpu_s: float | None = None
    """Processor time: of its process and the children it waited for, or of its thread."""
    peak_memory_bytes: int | None = None
    """The most memory that its process held meanwhile, without what the process started."""
    stdout: str | None = None
    stderr: str | None = None
    log: str | None = None
    """Log records, one a line."""

    @property
    def has_text(self) -> bool:
        """Whether the attempt wrote anything."""
        return self.stdout is not None or self.stderr is not None or self.log is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One ended run of a task. ``started_at`` is ``None`` when the worker died before anybody knew."""

    number: int
    outcome: AttemptOutcome
    worker: str
    claimed_at: datetime
    started_at: datetime | None
    finished_at: datetime
    error: TaskError | None = None
    encoded_result: bytes | None = field(default=None, repr=False)
    traces: Traces = field(default=Traces(), repr=False)
    """What it used and wrote, as far as that was measured; a listing of tasks has no texts."""

    @property
    def run_time(self) -> timedelta | None:
        """How long the function ran, by the wall clock; ``None`` if not measured, or if that clock was set back."""
        if self.started_at is None or self.finished_at < self.started_at:
            return None
        return self.finished_at - self.started_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A part of a task that is done: no later attempt does it again with the same arguments."""

    name: str
    inputs: str = field(repr=False)
    """A hash of its arguments."""
    encoded_result: bytes = field(repr=False)
    attempt: int
    """The number of the attempt that did it."""
    finished_at: datetime

    @property
    def result(self) -> Any:
        """What it returned; raises ``DecodeError`` where a class of it cannot be imported."""
        return codec.decode_result(self.encoded_result)


@dataclass(frozen=True, kw_only=True, slots=True)
class BackgroundTask:
    """One durable request to run a function, as it stands in the store. Moments are aware and in UTC."""

    id: TaskId
    name: str
    function: str
    queue: str
    pool: PoolKind
    priority: int
    status: TaskStatus
    max_retries: int
    timeout_s: float | None
    tags: tuple[str, ...]
    submitted_at: datetime
    due_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    """The worker that holds it now."""
    cancel_requested: bool
    failures: int
    """Failed attempts so far; ``max_retries`` bounds them."""
    attempts: tuple[Attempt, ...]
    """The ended attempts, oldest first."""
    progress: Mapping[str, Any] | None = None
    """What the running attempt reported last."""
    stall_timeout_s: float | None = None
    """Longest time that an attempt may go on without reporting progress or logging."""
    unique_key: str | None = None
    """The key that no other unfinished task has while this one is unfinished."""
    cancelled_by: TaskId | None = None
    """The task whose failing, or being cancelled, has cancelled this one, which needed it."""
    limit_key: str | None = None
    """The key of which few tasks run at once."""
    schedule: str | None = None
    """The name of the schedule that made it."""
    scheduled_for: datetime | None = None
    """The fire time that it was made for, by the rule; of a run by hand the moment of that."""
    encoded_arguments: bytes = field(default=b"", repr=False)

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments as submitted."""
        return codec.decode_arguments(self.encoded_arguments)

    @property
    def result(self) -> Any:
        """What the function returned; ``None`` while there is no result."""
        if self.status is not TaskStatus.COMPLETED or self.attempts[-1].encoded_result is None:
            return None
        return codec.decode_result(self.attempts[-1].encoded_result)

    @property
    def error(self) -> TaskError | None:
        """The error of the last ended attempt; ``None`` for a completed task."""
        if self.status is TaskStatus.COMPLETED or not self.attempts:
            return None
        return self.attempts[-1].error
