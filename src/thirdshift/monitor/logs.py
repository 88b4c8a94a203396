"""Events as log lines: the only place where the engine's life becomes text.

Constant dotted names with fields. ``logging.getLogger("thirdshift").setLevel(logging.DEBUG)`` shows every claim and
end; failures of tasks are INFO, because they are not faults of Thirdshift.
"""

import logging
from typing import Any

from thirdshift.core.events import (
    AttemptLost,
    AttemptOverran,
    AttemptsClaimed,
    AttemptsSettled,
    EndedAfterCommit,
    Event,
    FireTimesMissed,
    FunctionUnknown,
    LoopBlocked,
    LoopFreed,
    PoolFreed,
    PoolStuck,
    SchedulesFired,
    ScheduleUnusable,
    StoreUnavailable,
    TaskRescued,
    TasksPruned,
    WakesLost,
    WorkerFailed,
    WorkerStarted,
    WorkerStopped,
)
from thirdshift.core.outcome import Settlement
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import Claim

_logger = logging.getLogger("thirdshift.worker")

MARKS = "thirdshift_claim"
"""The attribute of a record that says which attempt it is about, as ``runtime/lines.py`` reads it."""

LOST_WAKES = (
    "a program writes tasks into the file by itself and tells nobody, the socket buffer of a worker is full, or the "
    "folder FILE.run beside the database is not shared by all its processes (one volume, one mount namespace)"
)


def log_event(event: Event) -> None:  # noqa: C901, PLR0912  # a table: one line for each event
    """Write *event* as one log line."""
    match event:
        case AttemptsClaimed(claims):
            if _logger.isEnabledFor(logging.DEBUG):  # one for each task: its fields are not made for nothing
                for claim in claims:
                    _logger.debug("task.claimed %s", _fields(claim), extra=_marks(claim))
        case AttemptsSettled(settlements):
            if _logger.isEnabledFor(logging.INFO):
                for settlement in settlements:
                    _log_end(settlement)
        case WorkerStarted(worker, slots):
            _logger.info("worker.started worker=%s slots=%d", worker, slots)
        case WorkerStopped(worker, running):
            _logger.info("worker.stopped worker=%s running=%d", worker, running)
        case AttemptLost(settlement):
            _logger.warning("task.lost %s", _fields(settlement.claim), extra=_marks(settlement.claim))
        case EndedAfterCommit(settlement):
            ending = settlement.ending
            _logger.warning(
                'task.ended_after_commit %s outcome=%s error="%s"',
                _fields(settlement.claim), ending.outcome.value, ending.error,
                extra=_marks(settlement.claim),
            )  # fmt: skip
        case FunctionUnknown(function, error):
            _logger.warning('function.unknown function=%s error="%s"', function, error)
        case AttemptOverran(claim):
            _logger.warning("task.overran %s timeout_s=%s", _fields(claim), claim.timeout_s, extra=_marks(claim))
        case PoolStuck(pool, overrun):
            ids = ",".join(claim.id for claim in overrun)
            _logger.error("pool.stuck pool=%s overrun=%d ids=%s", pool.value, len(overrun), ids)
        case PoolFreed(pool):
            _logger.warning("pool.freed pool=%s", pool.value)
        case LoopBlocked(claim, where, silent_s):
            _logger.warning('loop.blocked silent_s=%.1f %s at="%s"', silent_s, _blocker(claim), where)
        case LoopFreed(blocked_s):
            _logger.warning("loop.freed blocked_s=%.1f", blocked_s)
        case TaskRescued(rescue):
            marks = {"task_id": rescue.id, "task_name": rescue.name, "attempt": rescue.attempt, "worker": rescue.owner}
            _logger.warning(
                "task.rescued id=%s name=%s attempt=%d worker=%s",
                rescue.id, rescue.name, rescue.attempt, rescue.owner,
                extra={MARKS: marks},
            )  # fmt: skip
        case TasksPruned(counts):
            _logger.info("tasks.pruned %s", " ".join(f"{status.value}={count}" for status, count in counts.items()))
        case SchedulesFired(fires):
            for fire in fires:
                _logger.debug(
                    "schedule.fired schedule=%s nominal=%s kind=%s task=%s",
                    fire.name, fire.nominal.isoformat(), fire.kind.value, fire.task or "none",
                )  # fmt: skip
        case FireTimesMissed(schedules):
            _logger.warning("schedule.missed schedules=%s", ",".join(schedules))
        case ScheduleUnusable(schedule, why):
            _logger.error('schedule.unusable schedule=%s error="%s"', schedule, why)
        case WakesLost(count):
            _logger.warning('wakes.lost count=%d probable_cause="%s"', count, LOST_WAKES)
        case StoreUnavailable(error, retry_in_s):
            _logger.error('store.unavailable retry_in_s=%g error="%s"', retry_in_s, error)
        case WorkerFailed(error):
            _logger.critical("worker.failed", exc_info=error)


def _log_end(settlement: Settlement) -> None:
    has_failed = settlement.status is TaskStatus.FAILED or settlement.status is TaskStatus.RETRYING
    level = logging.INFO if has_failed else logging.DEBUG
    if not _logger.isEnabledFor(level):
        return
    ending = settlement.ending
    error = f' error="{ending.error}"' if ending.error is not None else ""
    outcome = ending.outcome.value
    claim, status = settlement.claim, settlement.status.value
    _logger.log(level, "task.%s %s status=%s%s", outcome, _fields(claim), status, error, extra=_marks(claim))


def _blocker(claim: Claim | None) -> str:
    return "by=nobody" if claim is None else f"function={claim.function} {_fields(claim)}"


def _marks(claim: Claim) -> dict[str, Any]:
    """Return what a line about an attempt says of it beside its message, for lines in JSON."""
    return {
        MARKS: {
            "task_id": claim.id,
            "task_name": claim.name,
            "attempt": claim.attempt,
            "queue": claim.queue,
            "worker": claim.owner,
        }
    }


def _fields(claim: Claim) -> str:
    return f"id={claim.id} name={claim.name} attempt={claim.attempt} queue={claim.queue}"
