"""The engine contract: where tasks live. Implementations stand in ``thirdshift.engines`` and pass one suite.

:class:`Engine` is what a submitter and a reader need, :class:`WorkerEngine` adds what a worker needs. All methods may
be called from any thread. Every write of an attempt is fenced by its :class:`~thirdshift.core.task.Claim`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol, TypeVar

from thirdshift.core.alerts import Alert, AlertChange, AlertStep, Trouble
from thirdshift.core.dependency import Relatives
from thirdshift.core.errors import ChangeRefused
from thirdshift.core.figures import Bucket, Execution, QueueLoad, Span
from thirdshift.core.health import Finding, HealthLevel, HealthLimits
from thirdshift.core.limits import NO_LIMITS, QueueLimits
from thirdshift.core.outcome import Ending, Settlement
from thirdshift.core.pruning import Limits
from thirdshift.core.reason import Reason
from thirdshift.core.schedule_store import ScheduleStore
from thirdshift.core.search import Match, SearchState
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import BackgroundTask, Claim, Fence, NewTask, PoolKind, Step, TaskError, TaskId

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What an engine promises; where two engines differ, the difference stands here."""

    name: str
    survives_power_loss: bool
    """A submit with ``durable=True`` is on disk when it returns."""
    strict_priority: bool
    """The highest priority among the runnable tasks of a queue is always claimed first."""
    shared_by_processes: bool
    join: str | None = None
    """The reference of the :data:`Join` that opens transactions on connections of the application; ``None``: there is
    no such thing here. By its name, because tasks use it in child processes, which have no engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFilter:
    """Which tasks are meant; ``None`` and empty mean all. A list has ``limit`` rows at most; nothing else minds it."""

    statuses: frozenset[TaskStatus] = frozenset()
    name: str | None = None
    queue: str | None = None
    tag: str | None = None
    unique_key: str | None = None
    """Finds the finished tasks that had it too."""
    limit_key: str | None = None
    submitted_before: datetime | None = None
    finished_before: datetime | None = None
    """Leaves out what is not finished."""
    fingerprint: str | None = None
    """Of the last attempt's error, as :class:`FailureGroup` has it."""
    limit: int = 50


BulkProgress = Callable[[int, int], None]
"""Told after each batch of a long change: how many tasks were looked at so far, and how many there are."""

TellRefused = Callable[[TaskId, ChangeRefused], None]
"""Told of each task that a change of many has left as it was, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureGroup:
    """Tasks whose last attempts ended with errors of one cause."""

    fingerprint: str
    """What the errors share: their type, and the functions that they came through."""
    type: str
    where: tuple[str, ...]
    """``module:name``, where they were raised first; empty when nobody knows."""
    count: int
    first_seen: datetime
    """When the first of these attempts ended."""
    last_seen: datetime
    example: TaskId
    """The task that was submitted last."""
    message: str
    """Of its error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueState:
    """One queue: how many tasks it holds under each unfinished status, since when it is paused, its limits."""

    name: str
    counts: Mapping[TaskStatus, int]
    paused_at: datetime | None
    limits: QueueLimits = NO_LIMITS


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyState:
    """One limit key: how many of its tasks run and may run at once, and how many are due and do not run."""

    key: str
    concurrency: int
    pending: int
    running: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerState:
    """One worker as the store knows it."""

    id: str
    pid: int
    host: str
    started_at: datetime
    slots: int
    busy: int
    queues: frozenset[str] | None = None
    """The queues that it works on; ``None``: all that are not ``excluded``."""
    excluded: frozenset[str] = frozenset()
    pools: Mapping[PoolKind, int] = field(default_factory=dict)
    """The slots of each pool; empty when they are not known."""
    name: str | None = None
    """What its people call it."""
    is_alive: bool = True
    """Whether it holds its lock, as the kernel says."""
    lost_wakes: int = 0
    """How often it found work that no wake-up had announced, since it started."""
    lost_wake_at: datetime | None = None
    """When that was last."""

    def takes(self, queue: str) -> bool:
        """Return whether it works on *queue*."""
        return (self.queues is None or queue in self.queues) and queue not in self.excluded

    def slots_for(self, pool: PoolKind) -> int:
        """Return its slots for *pool*; one that did not say what it has may have it."""
        return self.pools.get(pool, 0) if self.pools else self.slots


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerDeath:
    """A worker that died, as those found who took over."""

    worker: str
    pid: int
    host: str
    at: datetime
    tasks: int
    """How many it held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressReport:
    """When a running attempt has reported progress last."""

    task_id: TaskId
    name: str
    queue: str
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Vacuumed:
    """What giving free space back achieved."""

    before_bytes: int
    """Size of the database."""
    after_bytes: int
    file_bytes: int
    """Size of the file as it lies on the disk now; it follows when the engine next tidies up."""


class Announced(NamedTuple):
    """A task that another process has just submitted, which has told nobody else of it."""

    id: TaskId
    queue: str
    pool: PoolKind


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimRequest:
    """How many tasks a worker can take for each pool. ``queues=None`` means every queue that is not ``excluded``."""

    owner: str
    free: Mapping[PoolKind, int]
    queues: frozenset[str] | None = None
    excluded: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    """Functions that the worker cannot find: their tasks are left to others."""
    first: TaskId | None = None
    """A task that was just submitted, and has room here: if nothing should come before it, it alone is claimed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """The answer to one pass of a worker."""

    recorded: Sequence[bool]
    """For each settlement: was it recorded? False: the attempt was no longer this worker's."""
    claims: Sequence[Claim]
    """The new attempts, most urgent first."""
    next_due: datetime | None
    """When the next scheduled or retrying task is due, or the rate of a queue allows one more start."""
    is_limited: bool = False
    """The limits of a queue were reached: when a task of it ends, others may claim what they left."""
    has_released: bool = False
    """Tasks that had waited for those that ended may run."""
    has_cancelled: bool = False
    """Tasks that needed those that ended are cancelled."""
    has_freed_key: bool = False
    """A limit key of an attempt that ended has room for a task that was not claimed: others may claim it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescue:
    """One task that a dead worker held and that may run again, unless it *is_given_up*: it killed too many workers."""

    id: TaskId
    name: str
    owner: str
    attempt: int
    is_given_up: bool = False


class Joined(Protocol):
    """A transaction on a connection of the application to the file that holds the tasks.

    Its steps are plain calls; where *is_async*, each must be made through :meth:`run`. After :meth:`begin` it ends by
    one of :meth:`commit` and :meth:`roll_back`, after which nothing of it can be used.
    """

    @property
    def connection(self) -> Any:
        """Return what the application works with inside the transaction."""

    @property
    def is_async(self) -> bool:
        """Return whether the steps wait inside an event loop."""

    @property
    def is_own(self) -> bool:
        """Return whether it was begun here; else the caller has begun it, and commits or rolls back."""

    async def run(self, step: Callable[[], R]) -> R:
        """Make one *step*, in the running event loop."""

    def begin(self) -> bool:
        """Begin to write; False while somebody else does: call again after a moment.

        Raises ``StoreBusy`` when that takes too long, ``WrongDatabase`` and ``ReadSnapshot``.
        """

    def enter(self) -> None:
        """From now on, refuse calls from this context that would wait for the transaction's own end; not a step."""

    def leave(self) -> None:
        """Refuse them no more; not a step."""

    def submit(self, tasks: Sequence[NewTask], now: datetime, queue_size: int | None) -> Sequence[TaskId]:
        """Store *tasks*, all or none, when it commits. Returns and raises what :meth:`Engine.submit` does."""

    def check(self, fence: Fence) -> None:
        """Raise ``LostAttempt`` unless the attempt may complete; that cannot change before the end."""

    def complete(self, fence: Fence, ending: Ending) -> None:
        """Record that the attempt has completed, when it commits. Raises ``LostAttempt``."""

    def commit(self) -> None:
        """Commit what was begun here; what the caller has begun stays open."""

    def roll_back(self) -> None:
        """Roll back what was begun here, if anything was. Raises nothing."""


SQLITE_JOIN = "thirdshift.engines.sqlite.joined:join"
"""The embedded engine's, also for functions that are called where there is no engine at all."""

Join = Callable[[Any, str | None, bool], Joined]
"""Takes a connection, the store's location, and whether what is written must survive power loss. Without a location it
is any database's transaction. Raises ``UsageError`` for what it does not know."""


class Engine(Protocol):
    """What submitters and readers need."""

    @property
    def capabilities(self) -> Capabilities:
        """Return what this engine promises."""

    @property
    def location(self) -> str:
        """Return where the tasks live, for people."""

    @property
    def schedules(self) -> ScheduleStore:
        """Return what keeps the schedules."""

    def submit(self, tasks: Sequence[NewTask], *, queue_size: int | None = None) -> Sequence[TaskId]:
        """Store all *tasks* or none; on return they are as durable as they ask to be. Returns the id for each.

        That is its own, or the one of the task that holds its unique key. A task whose id is already stored is left as
        it is. One may wait for others that are stored or stand before it. Raises ``QueueFull`` when more than
        *queue_size* tasks would then be waiting to run, ``UniqueConflict`` when a task that asks for that finds its key
        held, ``ParentNotFound`` and ``DependencyCycle``.
        """

    def get(self, task_id: str) -> BackgroundTask | None:
        """Return the task as it stands, or ``None`` for an unknown id."""

    def status(self, task_id: str) -> TaskStatus | None:
        """Return the task's status, ``None`` for an unknown id; far cheaper than :meth:`get`."""

    def statuses(self, task_ids: Collection[str]) -> Mapping[str, TaskStatus]:
        """Return the status of each of these tasks, in one look; unknown ids are left out."""

    def find(self, task_filter: TaskFilter) -> Sequence[BackgroundTask]:
        """Return the tasks that match, newest first, without their attempts' results."""

    def counts(self, task_filter: TaskFilter | None = None) -> Mapping[TaskStatus, int]:
        """Return how many tasks there are under every status, of those that match when a filter is given."""

    def failure_groups(self, task_filter: TaskFilter) -> Sequence[FailureGroup]:
        """Group the tasks that match by the error of their last attempt, the largest group first.

        What ended without an error is in none; the filter's ``limit`` bounds the groups.
        """

    def why(self, task_id: str) -> Sequence[Reason]:
        """Return why the task is where it is and does not run, most telling first; nothing for an unknown id."""

    def relatives(self, task_id: str) -> Relatives:
        """Return what the task waits or waited for, and what waits or waited for it; nothing for an unknown id."""

    def steps(self, task_id: str) -> Sequence[Step]:
        """Return the steps that the task has done, in their order; nothing for an unknown id."""

    def queues(self) -> Sequence[QueueState]:
        """Return every queue that ever held a task, by name."""

    def has_work(
        self, queues: AbstractSet[str] | None, excluded: AbstractSet[str], unknown: AbstractSet[str] = frozenset()
    ) -> bool:
        """Return whether anything is left to run, now or later, in those queues that are not paused.

        ``None`` stands for all queues, but never for those *excluded*. Tasks of the functions *unknown* do not count.
        """

    def workers(self) -> Sequence[WorkerState]:
        """Return the workers that are registered, oldest first."""

    def examine(self, level: HealthLevel, limits: HealthLimits) -> Sequence[Finding]:
        """Look at the store and its workers; raises ``StoreError`` when the store does not answer."""

    def functions(self) -> Mapping[str, int]:
        """Return the functions of unfinished tasks, and how many of these call each; looks at all of them."""

    def limit_queue(self, queue: str, limits: QueueLimits) -> None:
        """Set the limits of *queue*, known or not, in place of those it had."""

    def limit_key(self, key: str, concurrency: int) -> None:
        """Let so many tasks of the limit key run at once, known or not; of others one runs at a time."""

    def limit_keys(self, limit: int) -> Sequence[KeyState]:
        """Return the limit keys that have tasks due or running or a limit of their own, by name; at most *limit*."""

    def set_paused(self, queue: str, paused: bool) -> bool:
        """Pause or resume a queue for all workers, also after restarts; returns whether that changed anything."""

    def cancel(self, task_id: str, *, unless_running: bool = False) -> bool:
        """Cancel the task, or ask its worker to stop it; False for an unknown or finished one.

        With *unless_running*, one that runs is left alone: False. Nobody can claim it in between.
        """

    def retry(self, task_id: str) -> bool:
        """Make a finished task pending again with all its retries; False for an unknown or unfinished one.

        It waits for what it needs and runs again itself; what its own end had cancelled is opened again. Raises
        ``UniqueConflict`` when an unfinished task has its unique key by now, and ``ParentsFailed`` when it needs tasks
        that have failed.
        """

    def delete(self, task_id: str) -> bool:
        """Delete a finished task with its attempts; False for an unknown or unfinished one.

        Raises ``StillNeeded`` while unfinished tasks wait for it.
        """

    def cancel_all(self, task_filter: TaskFilter, report: BulkProgress | None = None) -> int:
        """Cancel all tasks that match now, as :meth:`cancel` does; returns how many.

        This and the other changes of many tasks are made in batches, so that nobody waits long for the write lock:
        what is done when one fails stays done. A task that no longer matches when its turn comes is left alone.
        """

    def retry_all(
        self, task_filter: TaskFilter, report: BulkProgress | None = None, refused: TellRefused | None = None
    ) -> int:
        """Make all finished tasks that match now pending again, as :meth:`retry` does; returns how many.

        Those that :meth:`retry` refuses are left alone, and *refused* is told of each.
        """

    def delete_all(
        self, task_filter: TaskFilter, report: BulkProgress | None = None, refused: TellRefused | None = None
    ) -> int:
        """Delete all finished tasks that match now, as :meth:`delete` does; returns how many.

        Those that :meth:`delete` refuses are left alone, and *refused* is told of each.
        """

    def delete_finished(self, *, before: datetime) -> int:
        """Delete tasks that finished before that moment, with their attempts; returns how many.

        What unfinished tasks wait for stays; so it does when it is pruned.
        """

    def prunable(self, limits: Limits) -> Mapping[TaskStatus, int]:
        """Return how many tasks of each status :meth:`prune` would delete."""

    def prune(
        self, limits: Limits, *, most: int | None = None, report: BulkProgress | None = None
    ) -> Mapping[TaskStatus, int]:
        """Delete finished tasks beyond *limits*, those that finished first, *most* of them at most; returns how many.

        In batches, as all changes of many tasks. Costs one short look when there is nothing to do. Unique keys whose
        period is over go too.
        """

    def vacuum(self, report: BulkProgress | None = None) -> Vacuumed:
        """Give the space of deleted tasks back to the disk, in small steps, while others work."""

    def on_finished(
        self,
        callback: Callable[[], None],
        of_others: Callable[[], None] | None = None,
        told: Callable[[Sequence[TaskId]], None] | None = None,
    ) -> Callable[[], None]:
        """Call *callback* after tasks finished, in this or another process; returns what ends it.

        It runs on the thread of whoever finished them, and must be quick. For other processes *of_others* is called
        instead, if there is one, on a thread of the engine that it may keep busy. Where the engine knows the tasks, it
        calls *told* with their ids instead, if there is one; some of them may have been tried and not have finished.
        """

    def announce_commit(self, finished: Sequence[TaskId] = ()) -> None:
        """Wake who waits, after a commit of the application: tasks were stored, or those *finished* have."""

    def on_room(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* after tasks were claimed or cancelled, so that a full queue has room; returns what ends it.

        It runs on the thread of whoever did that, and must be quick.
        """

    def buckets(self, span: Span, since: datetime | None = None, name: str | None = None) -> Sequence[Bucket]:
        """Return the figures of ended attempts by stretch of time, name and queue, the oldest first.

        Those of stretches that begin at *since* or later, of all names or of one. What ended a moment ago is in them.
        """

    def executions(self, name: str, most: int) -> Sequence[Execution]:
        """Return the newest executions of *name* in detail, the newest first."""

    def search(self, text: str, limit: int) -> Sequence[Match]:
        """Return the newest tasks whose texts have the words of *text*, as the index knows them by now.

        Raises ``UsageError`` when there are no words, and when nobody keeps an index.
        """

    def search_state(self) -> SearchState:
        """Return how far the index of words is behind."""

    def catch_up_search(self) -> bool:
        """Put a batch of what is missing into the index of words; returns whether there may be more."""

    def forget_search(self) -> None:
        """Delete the index of words; it is built anew as it is caught up with."""

    def loads(self) -> Sequence[QueueLoad]:
        """Return what stands in every queue now, by name; looks at all unfinished tasks."""

    def alerts(self, past: int) -> Sequence[Alert]:
        """Return the active alerts, oldest first, and after them so many past ones, newest first."""

    def close(self) -> None:
        """Release files and connections. Further calls raise."""


class WorkerEngine(Engine, Protocol):
    """What workers need on top."""

    def register(
        self,
        *,
        slots: int,
        spare_slots: int = 0,
        queues: frozenset[str] | None = None,
        excluded: frozenset[str] = frozenset(),
        pools: Mapping[PoolKind, int] | None = None,
        name: str | None = None,
    ) -> "Registration":
        """Make a new worker known, and what it takes; its registration proves that it is alive.

        *spare_slots*: so many attempts may stand in slots beyond *slots*, which is what others see.
        """

    def exchange(self, settlements: Sequence[Settlement], request: ClaimRequest | None) -> Exchange:
        """Record ended attempts, promote what is due and claim new tasks, in one transaction."""

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Return claimed tasks whose function was never called; that is no attempt."""

    def decline(self, refusals: Sequence[tuple[Claim, TaskError]], unknown_after: timedelta) -> Sequence[Settlement]:
        """Return claimed tasks whose function their worker cannot find, and remember how: that is no attempt.

        When a task was due for *unknown_after*, and for so long no worker that takes it could find its function, it
        fails with that error instead. Returns what failed.
        """

    def found(self, owner: str, functions: Collection[str]) -> None:
        """Take notice that *owner* finds functions now of which it has declined tasks."""

    def record_progress(self, progress: Sequence[tuple[Claim, Mapping[str, Any]]]) -> None:
        """Store the newest progress of running attempts; not durable on its own."""

    def record_step(self, claim: Claim, name: str, inputs: str, encoded_result: bytes) -> bool:
        """Store a step of the attempt, as durably as its task; False when the task is no longer this attempt's."""

    def paused_queues(self) -> AbstractSet[str]:
        """Return the queues that are paused now."""

    def cancel_requests(self, owner: str) -> Sequence[TaskId]:
        """Return the running tasks of *owner* that somebody wants cancelled."""

    def rescue(self, owner: str) -> Sequence[Rescue]:
        """Make the tasks of dead workers runnable again; *owner* is the worker that asks."""

    def on_death(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when the process of another worker has died, where the system tells that.

        Returns what ends it. It is a hint to :meth:`rescue`, which decides.
        """

    def recover(self, owner: str, known: AbstractSet[tuple[int, int]]) -> Sequence[Rescue]:
        """Make runnable what *owner* holds in the store but not by its own account, *known*: (seq, attempt) pairs.

        Such claims are left when a thread is interrupted between a commit and what follows it.
        """

    def on_submit(self, reserve: "ReserveSeat") -> Callable[[], None]:
        """Let submitters of this process ask *reserve* for a free slot; returns what ends it.

        A task that gets one is claimed in the commit that submits it, if nothing that should come first is runnable.
        """

    def on_work(
        self,
        callback: Callable[[], None],
        of_others: Callable[[Announced | None], None] | None = None,
        of_strangers: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        """Call *callback* when there may be something to claim or to cancel; returns what ends it.

        It runs on the thread of whoever changed that, and must be quick. For changes of other processes *of_others* is
        called instead, if there is one, on a thread of the engine that it may keep busy; with the task, if one was
        submitted and nobody else was told of it. *of_strangers* is called on that thread when somebody may have written
        to the store without a word, also by ourselves, a few times a second at most.
        """

    @property
    def counts_ends(self) -> bool:
        """Return whether the ends of attempts that this process records are counted in the figures."""

    def count_ends(self) -> Callable[[], None]:
        """Count from now on the ends that this process records; returns what ends it."""

    def fold_figures(self) -> bool | None:
        """Fold a batch of what ended into the buckets, and forget a batch of those that are kept no longer.

        Returns whether there may be more. One process does that at a time; ``None``: it is another one.
        """

    def switch_search(self, is_on: bool) -> None:
        """Keep an index of the words of tasks from now on, or none."""

    def keep_executions(self, most: int) -> None:
        """Keep so many of the newest executions of each name in detail, from now on."""

    def executions_after(self, number: int, most: int) -> Sequence[tuple[int, Execution]]:
        """Return executions of all names in the order of their numbers, which come with them; for exports."""

    def forget_executions(self, up_to: int) -> None:
        """Delete the details of executions up to that number."""

    def worker_deaths(self, since: datetime) -> Sequence[WorkerDeath]:
        """Return the workers that were found dead since then."""

    def reports(self, before: datetime) -> Sequence[ProgressReport]:
        """Return the running attempts that have reported progress, the last time *before* that moment."""

    def update_alerts(self, troubles: Sequence[Trouble]) -> Sequence[AlertStep]:
        """Open, fire and clear alerts by what was found now; returns what fired and what cleared."""

    def alert_changes(self, after: int, most: int) -> Sequence[AlertChange]:
        """Return what fired and cleared after the change of that number, in order."""

    def last_alert_change(self) -> int:
        """Return the number of the newest change, 0 when there is none."""

    def alert_told(self, reader: str) -> int | None:
        """Return the number of the last change that *reader* has heard of; ``None``: it is new."""

    def tell_alert(self, reader: str, number: int) -> None:
        """Remember that *reader* has heard of all changes up to that number."""


class Seat(Protocol):
    """A free slot of a worker in this process, kept for a task while that is submitted.

    End it by one of :meth:`take` and :meth:`leave`.
    """

    @property
    def owner(self) -> str:
        """Return the worker's id."""

    def take(self, claim: Claim) -> bool:
        """Start the attempt, which is committed; False when the seat was given up meanwhile."""

    def leave(self) -> None:
        """Free the slot again."""


ReserveSeat = Callable[[str, PoolKind], Seat | None]
"""Takes a queue and a pool; ``None``: no slot is free for them."""


class Registration(Protocol):
    """A registered worker. While it is open, nobody else takes the worker's tasks."""

    @property
    def id(self) -> str:
        """Return the worker's id, new at every start."""

    def enter_slot(self, slot: int, claim: Claim) -> None:
        """Note that the attempt is about to run in *slot*, so that it can be told after a death of the worker."""

    def note_progress(self, slot: int) -> None:
        """Note that the attempt in *slot* has come forward: a death after that is not counted against its task."""

    def leave_slot(self, slot: int) -> None:
        """Note that *slot* is empty."""

    def child_lock(self, number: int) -> str:
        """Return the path of the lock file that child *number* of this worker must hold while it lives."""

    def note_lost_wakes(self, count: int, at: datetime) -> None:
        """Let others see that this worker has found work *count* times that nobody had announced, last *at*."""

    def close(self) -> None:
        """Say that the worker is gone; its tasks may be taken over from now on."""
