"""What happened, as values. The runtime announces them after they are durable; adapters turn them into log lines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from thirdshift.core.engine import Rescue
from thirdshift.core.outcome import Settlement
from thirdshift.core.schedule_store import Fire
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import Claim, PoolKind, TaskError


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """A worker claims from now on."""

    worker: str
    slots: int


@dataclass(frozen=True, slots=True)
class WorkerStopped:
    """A worker claims no more; ``running`` attempts go on until they end or the process does."""

    worker: str
    running: int


@dataclass(frozen=True, slots=True)
class AttemptsClaimed:
    """A worker took tasks, in one commit."""

    claims: Sequence[Claim]


@dataclass(frozen=True, slots=True)
class AttemptsSettled:
    """The ends of attempts are recorded, in one commit."""

    settlements: Sequence[Settlement]


@dataclass(frozen=True, slots=True)
class AttemptLost:
    """An attempt ended, but its task was no longer this worker's; nothing was recorded."""

    settlement: Settlement


@dataclass(frozen=True, slots=True)
class EndedAfterCommit:
    """An attempt had recorded that it completed, by ``commit``, and then its function raised, or asked for something
    else. The outcome stands."""

    settlement: Settlement


@dataclass(frozen=True, slots=True)
class TaskRescued:
    """A dead worker's task may run again."""

    rescue: Rescue


@dataclass(frozen=True, slots=True)
class FunctionUnknown:
    """A worker cannot find a function, for the first time; it leaves the tasks of it to others."""

    function: str
    error: TaskError


@dataclass(frozen=True, slots=True)
class AttemptOverran:
    """An attempt must end, goes on, and cannot be killed: a thread that does not return, or a coroutine that swallowed
    its cancellation or never yields. Nobody else runs the task meanwhile."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class PoolStuck:
    """More attempts overran than may be replaced: nothing new begins in this pool of the worker until one returns."""

    pool: PoolKind
    overrun: Sequence[Claim]


@dataclass(frozen=True, slots=True)
class PoolFreed:
    """A stuck pool goes on: a function has returned."""

    pool: PoolKind


@dataclass(frozen=True, slots=True)
class LoopBlocked:
    """A coroutine does not let go of the event loop: no other one of its worker goes on. It was asked to stop."""

    claim: Claim | None
    """``None``: the code is no running attempt's."""
    where: str
    """The innermost frames, the outer first."""
    silent_s: float


@dataclass(frozen=True, slots=True)
class LoopFreed:
    """The event loop goes on after it was blocked."""

    blocked_s: float


@dataclass(frozen=True, slots=True)
class TasksPruned:
    """Finished tasks were deleted because the pruning rules keep them no longer."""

    counts: Mapping[TaskStatus, int]


@dataclass(frozen=True, slots=True)
class SchedulesFired:
    """Fire times have come, and this process has made their tasks."""

    fires: Sequence[Fire]


@dataclass(frozen=True, slots=True)
class FireTimesMissed:
    """Fire times passed while nobody could act; the schedules of these names were dealt with by their policies."""

    schedules: Sequence[str]


@dataclass(frozen=True, slots=True)
class ScheduleUnusable:
    """A schedule's rule cannot be used on this machine, for the first time; its time zone is not known here."""

    schedule: str
    why: str


@dataclass(frozen=True, slots=True)
class WakesLost:
    """The worker found work that no wake-up had announced; ``count`` times since it started."""

    count: int


@dataclass(frozen=True, slots=True)
class StoreUnavailable:
    """A pass of the worker failed because of the store; it is tried again."""

    error: Exception
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """A worker gave up: the store cannot be trusted any more, or Thirdshift itself has a fault."""

    error: Exception


Event = (
    WorkerStarted
    | WorkerStopped
    | AttemptsClaimed
    | AttemptsSettled
    | AttemptLost
    | EndedAfterCommit
    | TaskRescued
    | FunctionUnknown
    | AttemptOverran
    | PoolStuck
    | PoolFreed
    | LoopBlocked
    | LoopFreed
    | TasksPruned
    | SchedulesFired
    | FireTimesMissed
    | ScheduleUnusable
    | WakesLost
    | StoreUnavailable
    | WorkerFailed
)
Observer = Callable[[Event], None]
