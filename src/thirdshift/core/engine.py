"""The engine contract: where tasks live. Implementations stand in ``thirdshift.engines`` and pass one suite.

:class:`Engine` is what a submitter and a reader need, :class:`WorkerEngine` adds what a worker needs. All methods may
be called from any thread. Every write of an attempt is fenced by its :class:`~thirdshift.core.task.Claim`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from thirdshift.core.outcome import Settlement
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import BackgroundTask, Claim, NewTask, PoolKind, TaskId


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What an engine promises; where two engines differ, the difference stands here."""

    name: str
    survives_power_loss: bool
    """A submit with ``durable=True`` is on disk when it returns."""
    strict_priority: bool
    """The highest priority among the runnable tasks of a queue is always claimed first."""
    shared_by_processes: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFilter:
    """Which tasks to list; ``None`` and empty mean all. Newest first, ``limit`` rows at most."""

    statuses: frozenset[TaskStatus] = frozenset()
    name: str | None = None
    queue: str | None = None
    tag: str | None = None
    limit: int = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueState:
    """One queue: how many tasks it holds under each unfinished status, and since when it is paused."""

    name: str
    counts: Mapping[TaskStatus, int]
    paused_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerState:
    """One worker as the store knows it."""

    id: str
    pid: int
    host: str
    started_at: datetime
    slots: int
    busy: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimRequest:
    """How many tasks a worker can take for each pool. ``queues=None`` means every queue that is not ``excluded``."""

    owner: str
    free: Mapping[PoolKind, int]
    queues: frozenset[str] | None = None
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """The answer to one pass of a worker."""

    recorded: Sequence[bool]
    """For each settlement: was it recorded? False: the attempt was no longer this worker's."""
    claims: Sequence[Claim]
    """The new attempts, most urgent first."""
    next_due: datetime | None
    """When the next scheduled or retrying task is due."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescue:
    """One task that a dead worker held and that may run again."""

    id: TaskId
    name: str
    owner: str
    attempt: int


class Engine(Protocol):
    """What submitters and readers need."""

    @property
    def capabilities(self) -> Capabilities:
        """Return what this engine promises."""

    @property
    def location(self) -> str:
        """Return where the tasks live, for people."""

    def submit(self, tasks: Sequence[NewTask], *, queue_size: int | None = None) -> None:
        """Store all *tasks* or none; on return they are as durable as they ask to be.

        A task whose id is already stored is left as it is. Raises ``QueueFull`` when more than *queue_size* tasks would
        then be waiting to run.
        """

    def get(self, task_id: str) -> BackgroundTask | None:
        """Return the task as it stands, or ``None`` for an unknown id."""

    def find(self, task_filter: TaskFilter) -> Sequence[BackgroundTask]:
        """Return the tasks that match, newest first, without their attempts' results."""

    def counts(self) -> Mapping[TaskStatus, int]:
        """Return how many tasks there are under every status."""

    def queues(self) -> Sequence[QueueState]:
        """Return every queue that ever held a task, by name."""

    def workers(self) -> Sequence[WorkerState]:
        """Return the workers that are registered, oldest first."""

    def set_paused(self, queue: str, paused: bool) -> bool:
        """Pause or resume a queue for all workers, also after restarts; returns whether that changed anything."""

    def cancel(self, task_id: str) -> bool:
        """Cancel the task, or ask its worker to stop it; False for an unknown or finished one."""

    def retry(self, task_id: str) -> bool:
        """Make a finished task pending again with all its retries; False for an unknown or unfinished one."""

    def delete_finished(self, *, before: datetime) -> int:
        """Delete tasks that finished before that moment, with their attempts; returns how many."""

    def on_finished(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* after tasks finished, in this or another process; returns what ends it."""

    def close(self) -> None:
        """Release files and connections. Further calls raise."""


class WorkerEngine(Engine, Protocol):
    """What workers need on top."""

    def register(self, *, slots: int) -> "Registration":
        """Make a new worker known; its registration proves that it is alive."""

    def exchange(self, settlements: Sequence[Settlement], request: ClaimRequest | None) -> Exchange:
        """Record ended attempts, promote what is due and claim new tasks, in one transaction."""

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Return claimed tasks whose function was never called; that is no attempt."""

    def record_progress(self, progress: Sequence[tuple[Claim, Mapping[str, Any]]]) -> None:
        """Store the newest progress of running attempts; not durable on its own."""

    def cancel_requests(self, owner: str) -> Sequence[TaskId]:
        """Return the running tasks of *owner* that somebody wants cancelled."""

    def rescue(self, owner: str) -> Sequence[Rescue]:
        """Make the tasks of dead workers runnable again; *owner* is the worker that asks."""

    def on_work(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when there may be something to claim or to cancel; returns what ends it."""


class Registration(Protocol):
    """A registered worker. While it is open, nobody else takes the worker's tasks."""

    @property
    def id(self) -> str:
        """Return the worker's id, new at every start."""

    def child_lock(self, number: int) -> str:
        """Return the path of the lock file that child *number* of this worker must hold while it lives."""

    def close(self) -> None:
        """Say that the worker is gone; its tasks may be taken over from now on."""
