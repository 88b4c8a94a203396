"""Rows to values and back: the one place that knows how a moment or a span is stored."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from thirdshift.core.dependency import DependencyState, Need, Relative
from thirdshift.core.engine import FailureGroup, WorkerState
from thirdshift.core.outcome import Ending, Settlement
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import (
    Attempt,
    AttemptOutcome,
    BackgroundTask,
    Claim,
    NewTask,
    PoolKind,
    Step,
    TaskError,
    TaskId,
    TaskSpec,
    Traces,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_POOLS = {kind.value: kind for kind in PoolKind}
_COUNTED = (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)

Row = tuple[Any, ...]
LIMIT_KEY = 15
"""Where it stands in the parameters of the query ``submit``."""


def to_us(moment: datetime) -> int:
    """Return an aware *moment* as microseconds since 1970 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(value: int) -> datetime:
    """Return the moment, aware and in UTC."""
    return _EPOCH + timedelta(microseconds=value)


def optional_us(seconds: float | None) -> int | None:
    """Return a span as microseconds."""
    return None if seconds is None else round(seconds * 1e6)


def optional_moment(value: int | None) -> datetime | None:
    """Return the moment, if there is one."""
    return None if value is None else from_us(value)


def row_of_new(task: NewTask, now_us: int) -> Row:
    """Return the parameters of the query ``submit``."""
    spec = task.spec
    if spec.run_at is None:
        return (task.id, task.arguments, "pending", now_us, now_us, *_row_of_spec(spec))
    due_us = to_us(spec.run_at)
    status = TaskStatus.PENDING if due_us <= now_us else TaskStatus.SCHEDULED
    return (task.id, task.arguments, status.value, now_us, due_us, *_row_of_spec(spec))


def _row_of_spec(spec: TaskSpec) -> Row:
    """Return what all tasks of *spec* share. Submits mostly repeat the one before them, whose row is remembered."""
    global _last_spec  # noqa: PLW0603  # one pair, replaced at once: threads see the old one or the new one
    known, row = _last_spec
    if known is not spec:
        row = (
            spec.name,
            spec.function,
            spec.queue,
            spec.pool.value,
            int(spec.priority),
            int(spec.durable),
            spec.max_retries,
            optional_us(spec.timeout_s),
            json.dumps(spec.tags) if spec.tags else "[]",
            optional_us(spec.stall_timeout_s),
            spec.limit_key,
        )
        _last_spec = spec, row
    return row


_last_spec: tuple[TaskSpec | None, Row] = (None, ())


def runnable_rows(answer: bytes) -> list[Row]:
    """Return the rows in the one answer of the query ``runnable``."""
    return [tuple(row) for row in json.loads(answer.decode("utf-8", "surrogatepass"))]


def claim_of_row(row: Row, arguments: bytes, owner: str, now: datetime) -> Claim:
    """Return the claim that a row of the query ``runnable`` becomes, or of those that have a limit key too."""
    (priority, _, seq, task_id, attempt_before, name, function, _) = row[:8]
    (queue, pool, failures, retries, timeout_us, durable, crashes, stall_timeout_us) = row[8:16]
    (schedule, nominal_us, *keyed) = row[16:]
    return Claim(
        seq,
        task_id,
        attempt_before + 1,
        owner,
        name,
        function,
        arguments,
        queue,
        _POOLS[pool],
        priority,
        failures,
        retries,
        None if timeout_us is None else timeout_us / 1e6,
        bool(durable),
        now,
        crashes,
        None if stall_timeout_us is None else stall_timeout_us / 1e6,
        keyed[0] if keyed else None,
        schedule,
        optional_moment(nominal_us),
    )


def claim_of_new(task: NewTask, seq: int, owner: str, now_us: int) -> Claim:
    """Return the claim of a task that is claimed in the commit that submits it."""
    spec = task.spec
    return Claim(
        seq=seq,
        id=task.id,
        attempt=1,
        owner=owner,
        name=spec.name,
        function=spec.function,
        arguments=task.arguments,
        queue=spec.queue,
        pool=spec.pool,
        priority=int(spec.priority),
        failures=0,
        max_retries=spec.max_retries,
        timeout_s=spec.timeout_s,
        durable=spec.durable,
        claimed_at=from_us(now_us),
        stall_timeout_s=spec.stall_timeout_s,
    )


def fence(claim: Claim) -> dict[str, Any]:
    """Return the parameters that every fenced query of one attempt takes."""
    return {"seq": claim.seq, "id": claim.id, "attempt": claim.attempt, "owner": claim.owner}


Fence = tuple[int, str, int, str]
"""An attempt: its task's number and id, its own number, its owner."""


def rows_of_settlement(settlement: Settlement) -> tuple[Row, Row]:
    """Return the parameters of ``record_attempts`` and ``settle``."""
    claim, ending, status, due_at, crashes = settlement
    return rows_of_ending((claim.seq, claim.id, claim.attempt, claim.owner), ending, status, due_at, crashes)


def rows_of_ending(
    fence: Fence, ending: Ending, status: TaskStatus, due_at: datetime | None, crashes: int | None
) -> tuple[Row, Row]:
    """Return the parameters of ``record_attempts`` and ``settle``."""
    error, traces = ending.error, ending.traces
    finished_us = to_us(ending.finished_at)
    attempt = (
        *fence,
        ending.outcome.value,
        None if ending.started_at is None else to_us(ending.started_at),
        finished_us,
        ending.encoded_result,
        error and error.type,
        error and error.message,
        error and error.traceback,
        traces and optional_us(traces.cpu_s),
        traces and traces.peak_memory_bytes,
    )
    due_us = None if due_at is None else to_us(due_at)
    return attempt, (*fence, finished_us, status.value, due_us, int(ending.outcome in _COUNTED), crashes)


def row_of_trace(settlement: Settlement) -> Row | None:
    """Return the parameters of ``record_trace``, ``None`` for an attempt that wrote nothing."""
    traces = settlement.ending.traces
    if traces is None or not traces.has_text:
        return None
    return settlement.claim.seq, settlement.claim.attempt, traces.stdout, traces.stderr, traces.log


def row_of_amendment(settlement: Settlement) -> Row:
    """Return the parameters of ``amend_attempt``."""
    claim, ending = settlement.claim, settlement.ending
    traces = ending.traces or Traces()
    started_us = None if ending.started_at is None else to_us(ending.started_at)
    used = optional_us(traces.cpu_s), traces.peak_memory_bytes
    return started_us, *used, claim.seq, claim.attempt, claim.owner, claim.id


def step_of_row(row: Row) -> Step:
    """Return a row of the query ``steps``."""
    name, inputs, result, attempt, at_us = row
    return Step(name=name, inputs=inputs, encoded_result=result, attempt=attempt, finished_at=from_us(at_us))


def relative_of_row(row: Row) -> Relative:
    """Return a row of the queries ``parents_of`` and ``dependants_of``."""
    task_id, name, status, need, state = row
    return Relative(task_id, name, TaskStatus(status), Need(need), DependencyState(state))


def attempt_of_row(row: Row) -> Attempt:
    """Return a row of the query ``attempts``."""
    number, outcome, worker, claimed, started, finished, result, error_type, error_message, error_traceback = row[:10]
    fingerprint, cpu_us, peak_memory_bytes, stdout, stderr, log = row[10:]
    error = None
    if error_type is not None:
        where = () if fingerprint is None else _where_of(error_type, fingerprint)
        error = TaskError(type=error_type, message=error_message or "", traceback=error_traceback, where=where)
    return Attempt(
        number=number,
        outcome=AttemptOutcome(outcome),
        worker=worker,
        claimed_at=from_us(claimed),
        started_at=optional_moment(started),
        finished_at=from_us(finished),
        error=error,
        encoded_result=result,
        traces=Traces(None if cpu_us is None else cpu_us / 1e6, peak_memory_bytes, stdout, stderr, log),
    )


def group_of_row(row: Row) -> FailureGroup:
    """Return a row of the query that groups failures."""
    fingerprint, error_type, count, first, last, task_id, message = row
    return FailureGroup(
        fingerprint=fingerprint,
        type=error_type,
        where=_where_of(error_type, fingerprint),
        count=count,
        first_seen=from_us(first),
        last_seen=from_us(last),
        example=TaskId(task_id),
        message=message or "",
    )


def _where_of(error_type: str, fingerprint: str) -> tuple[str, ...]:
    """Return the functions that a fingerprint names."""
    _, _, names = fingerprint.removeprefix(error_type).partition("@")
    return tuple(names.split(",")) if names else ()


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
        stall_timeout_us,
        unique_key,
        cancelled_by,
        limit_key,
        schedule,
        nominal_us,
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
        finished_at=optional_moment(finished),
        worker=owner,
        cancel_requested=cancel_requested is not None,
        failures=failures,
        attempts=tuple(attempts),
        progress=None if facts is None else json.loads(facts),
        encoded_arguments=arguments,
        stall_timeout_s=None if stall_timeout_us is None else stall_timeout_us / 1e6,
        unique_key=unique_key,
        cancelled_by=cancelled_by,
        limit_key=limit_key,
        schedule=schedule,
        scheduled_for=optional_moment(nominal_us),
    )


def row_of_worker(worker: WorkerState) -> Row:
    """Return the parameters of the query ``register_worker``."""
    return (
        worker.id,
        worker.pid,
        worker.host,
        to_us(worker.started_at),
        worker.slots,
        None if worker.queues is None else json.dumps(sorted(worker.queues)),
        json.dumps(sorted(worker.excluded)),
        json.dumps({pool.value: slots for pool, slots in worker.pools.items()}),
    )


def worker_of_row(row: Row) -> WorkerState:
    """Return a row of the query ``workers``."""
    worker, pid, host, started, slots, busy, queues, excluded, pools = row
    return WorkerState(
        id=worker,
        pid=pid,
        host=host,
        started_at=from_us(started),
        slots=slots,
        busy=busy,
        queues=None if queues is None else frozenset(json.loads(queues)),
        excluded=frozenset(json.loads(excluded)),
        pools={_POOLS[pool]: count for pool, count in json.loads(pools).items()},
    )


def facts_of_progress(progress: Mapping[str, Any]) -> str:
    """Return progress as the JSON that the store keeps."""
    return json.dumps(progress, allow_nan=False, default=str)
