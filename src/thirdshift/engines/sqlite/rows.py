"""Rows to values and back: the one place that knows how a moment or a span is stored."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from thirdshift.core.outcome import Settlement
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import (
    Attempt,
    AttemptOutcome,
    BackgroundTask,
    Claim,
    NewTask,
    PoolKind,
    TaskError,
    TaskId,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_POOLS = {kind.value: kind for kind in PoolKind}
_COUNTED = (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)

Row = tuple[Any, ...]


def to_us(moment: datetime) -> int:
    """Return an aware *moment* as microseconds since 1970 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(value: int) -> datetime:
    """Return the moment, aware and in UTC."""
    return _EPOCH + timedelta(microseconds=value)


def _optional_moment(value: int | None) -> datetime | None:
    return None if value is None else from_us(value)


def row_of_new(task: NewTask, now_us: int) -> Row:
    """Return the parameters of the query ``submit``."""
    due_us = now_us if task.run_at is None else to_us(task.run_at)
    status = TaskStatus.PENDING if due_us <= now_us else TaskStatus.SCHEDULED
    return (
        task.id,
        task.name,
        task.function,
        task.arguments,
        task.queue,
        task.pool.value,
        int(task.priority),
        status.value,
        now_us,
        due_us,
        int(task.durable),
        task.max_retries,
        None if task.timeout_s is None else round(task.timeout_s * 1e6),
        json.dumps(task.tags) if task.tags else "[]",
    )


def claim_of_row(row: Row, owner: str, now: datetime) -> Claim:
    """Return the claim that a row of the query ``runnable`` becomes."""
    (priority, _, seq, task_id, attempt_before, name, function, arguments) = row[:8]
    (queue, pool, failures, retries, timeout_us, durable) = row[8:]
    return Claim(
        seq=seq,
        id=task_id,
        attempt=attempt_before + 1,
        owner=owner,
        name=name,
        function=function,
        arguments=arguments,
        queue=queue,
        pool=_POOLS[pool],
        priority=priority,
        failures=failures,
        max_retries=retries,
        timeout_s=None if timeout_us is None else timeout_us / 1e6,
        durable=bool(durable),
        claimed_at=now,
    )


def fence(claim: Claim) -> dict[str, Any]:
    """Return the parameters that every fenced query takes."""
    return {"seq": claim.seq, "attempt": claim.attempt, "owner": claim.owner}


def row_of_settlement(settlement: Settlement) -> dict[str, Any]:
    """Return the parameters of ``record_attempt`` and ``settle``."""
    report = settlement.report
    error = report.error
    return {
        **fence(report.claim),
        "outcome": report.outcome.value,
        "started_at": None if report.started_at is None else to_us(report.started_at),
        "finished_at": to_us(report.finished_at),
        "result": report.encoded_result,
        "error_type": error and error.type,
        "error_message": error and error.message,
        "error_traceback": error and error.traceback,
        "status": settlement.status.value,
        "due_at": None if settlement.due_at is None else to_us(settlement.due_at),
        "failed": int(report.outcome in _COUNTED),
    }


def attempt_of_row(row: Row) -> Attempt:
    """Return a row of the query ``attempts``."""
    number, outcome, worker, claimed, started, finished, result, error_type, error_message, error_traceback = row
    error = None
    if error_type is not None:
        error = TaskError(type=error_type, message=error_message or "", traceback=error_traceback)
    return Attempt(
        number=number,
        outcome=AttemptOutcome(outcome),
        worker=worker,
        claimed_at=from_us(claimed),
        started_at=_optional_moment(started),
        finished_at=from_us(finished),
        error=error,
        encoded_result=result,
    )


def task_of_row(row: Row, attempts: Sequence[Attempt]) -> BackgroundTask:
    """Return a row of the query ``task``; its attempts are read apart."""
    (
        _seq,
        task_id,
        name,
        function,
        arguments,
        queue,
        pool,
        priority,
        status,
        submitted,
        due,
        max_retries,
        timeout_us,
        tags,
        _attempt,
        failures,
        owner,
        claimed,
        cancel_requested,
        finished,
        facts,
    ) = row
    started = from_us(claimed) if claimed is not None else (attempts[-1].started_at if attempts else None)
    return BackgroundTask(
        id=TaskId(task_id),
        name=name,
        function=function,
        queue=queue,
        pool=_POOLS[pool],
        priority=priority,
        status=TaskStatus(status),
        max_retries=max_retries,
        timeout_s=None if timeout_us is None else timeout_us / 1e6,
        tags=tuple(json.loads(tags)),
        submitted_at=from_us(submitted),
        due_at=from_us(due),
        started_at=started,
        finished_at=_optional_moment(finished),
        worker=owner,
        cancel_requested=cancel_requested is not None,
        failures=failures,
        attempts=tuple(attempts),
        progress=None if facts is None else json.loads(facts),
        encoded_arguments=arguments,
    )


def facts_of_progress(progress: Mapping[str, Any]) -> str:
    """Return progress as the JSON that the store keeps."""
    return json.dumps(progress, allow_nan=False, default=str)
