"""``thirdshift tasks``: look at tasks; what changes them stands in ``changes`` and ``upkeep``."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from thirdshift.cli.changes import cancel, delete, retry
from thirdshift.cli.output import Session, print_facts, print_json, print_table
from thirdshift.cli.search import search
from thirdshift.cli.store import opened
from thirdshift.cli.upkeep import prune, vacuum
from thirdshift.core.codec import DecodeError
from thirdshift.core.dependency import Need, Relatives
from thirdshift.core.errors import TaskNotFound
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import Attempt, BackgroundTask, Step
from thirdshift.core.words import ago, duration

N = TypeVar("N", int, float)

_NEEDS = {Need.SUCCESS: "has to complete", Need.ANY: "has to end"}


@click.group()
def tasks() -> None:
    """Look at tasks; cancel, retry and delete them; tidy up.

    \b
    thirdshift tasks list --status failed
    thirdshift tasks show 01a2014090b85ea87fe9b5cbd25f0723
    thirdshift tasks search anna@example.org
    thirdshift tasks failures
    thirdshift tasks retry --status failed --queue mail
    thirdshift tasks prune --dry-run
    """


@tasks.command("list")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice([each.value for each in TaskStatus]), help="May repeat."
)
@click.option("--queue", help="Only tasks of this queue.")
@click.option("--name", help="Only tasks of this name.")
@click.option("--tag", help="Only tasks with this tag.")
@click.option("--unique-key", help="Only tasks with this unique key, finished ones too.")
@click.option("--limit-key", help="Only tasks with this limit key, finished ones too.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Most tasks to list.")
@click.pass_obj
def list_tasks(session: Session, /, statuses: tuple[str, ...], **narrow: Any) -> None:
    """List tasks, newest first.

    \b
    thirdshift tasks list --status failed --status retrying
    thirdshift --json tasks list --queue mail --limit 1000
    """
    from thirdshift.core.engine import TaskFilter  # noqa: PLC0415

    wanted = TaskFilter(statuses=frozenset(map(TaskStatus, statuses)), **narrow)
    with opened(session) as manager:
        found = manager.find_tasks(wanted)
    if session.as_json:
        print_json([describe(task) for task in found])
        return
    now = datetime.now(UTC)
    rows = [
        (task.id, task.name, task.queue, task.status.value, ago(task.submitted_at, now), str(len(task.attempts)),
         "" if task.error is None else _first_line(str(task.error))[:80])
        for task in found
    ]  # fmt: skip
    print_table(("id", "name", "queue", "status", "submitted", "attempts", "error"), rows)


@tasks.command()
@click.argument("task_id")
@click.pass_obj
def show(session: Session, task_id: str) -> None:
    """Show one task with every attempt.

    \b
    thirdshift tasks show 01a2014090b85ea87fe9b5cbd25f0723
    """
    with opened(session) as manager:
        task, steps, relatives = manager.get_task(task_id), manager.steps(task_id), manager.relatives(task_id)
    if task is None:
        raise TaskNotFound(task_id)
    if session.as_json:
        print_json(describe(task) | {"steps": [_describe_step(step) for step in steps]} | _describe_all(relatives))
        return
    print_facts(_facts(task))
    for each in relatives.parents:
        click.echo(f"after {each.id} ({each.name}): {each.status.value}, {_NEEDS[each.need]}")
    for each in relatives.dependants:
        click.echo(f"before {each.id} ({each.name}): {each.status.value}")
    for step in steps:
        click.echo(f"step {step.name}: done in attempt {step.attempt}, {_shown(lambda step=step: repr(step.result))}")
    for attempt in task.attempts:
        click.echo()
        print_facts(_attempt_facts(attempt))
        if attempt.error is not None and attempt.error.traceback:
            click.echo(attempt.error.traceback.rstrip())
        for title, text in _texts(attempt):
            click.echo(f"{title}:\n{text.rstrip()}")


@tasks.command()
@click.option("--queue", help="Only tasks of this queue.")
@click.option("--name", help="Only tasks of this name.")
@click.option("--tag", help="Only tasks with this tag.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Most causes to list.")
@click.pass_obj
def failures(session: Session, queue: str | None, name: str | None, tag: str | None, limit: int) -> None:
    """List what tasks failed of, one line for each cause: those that failed for good, and those to be tried again.

    \b
    thirdshift tasks failures --queue mail
    thirdshift tasks retry --fingerprint ValueError@shop.mail:send
    thirdshift --json tasks failures | jq -r '.[0].fingerprint'
    """
    from thirdshift.core.engine import TaskFilter  # noqa: PLC0415

    with opened(session) as manager:
        groups = manager.failure_groups(TaskFilter(queue=queue, name=name, tag=tag, limit=limit))
    if session.as_json:
        print_json([asdict(group) for group in groups])
        return
    now = datetime.now(UTC)
    rows = [
        (f"{group.count:,}", group.fingerprint, ago(group.last_seen, now), ago(group.first_seen, now), group.example,
         _first_line(group.message)[:80])
        for group in groups
    ]  # fmt: skip
    print_table(("tasks", "fingerprint", "last", "first", "example", "message"), rows)


for _command in (search, cancel, retry, delete, prune, vacuum):
    tasks.add_command(_command)


def describe(task: BackgroundTask) -> dict[str, Any]:
    """Return *task* as JSON-ready data."""
    return {
        "id": task.id,
        "name": task.name,
        "function": task.function,
        "queue": task.queue,
        "pool": task.pool.value,
        "priority": task.priority,
        "status": task.status.value,
        "tags": list(task.tags),
        "unique_key": task.unique_key,
        "limit_key": task.limit_key,
        "schedule": task.schedule,
        "scheduled_for": task.scheduled_for,
        "arguments": _shown(lambda: list(task.arguments)),
        "result": _shown(lambda: task.result),
        "error": None if task.error is None else str(task.error),
        "progress": task.progress,
        "max_retries": task.max_retries,
        "failures": task.failures,
        "timeout_s": task.timeout_s,
        "stall_timeout_s": task.stall_timeout_s,
        "submitted_at": task.submitted_at,
        "due_at": task.due_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "worker": task.worker,
        "cancel_requested": task.cancel_requested,
        "cancelled_by": task.cancelled_by,
        "attempts": [_describe_attempt(attempt) for attempt in task.attempts],
    }


def _describe_attempt(attempt: Attempt) -> dict[str, Any]:
    error = attempt.error
    return {
        "number": attempt.number,
        "outcome": attempt.outcome.value,
        "worker": attempt.worker,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "run_time_s": attempt.run_time,
        "error": None
        if error is None
        else {"type": error.type, "message": error.message, "fingerprint": error.fingerprint},
        "traceback": None if error is None else error.traceback,
        **attempt.traces._asdict(),
    }


def _describe_all(relatives: Relatives) -> dict[str, Any]:
    return {
        side: [
            {"id": each.id, "name": each.name, "status": each.status.value, "need": each.need.value}
            for each in getattr(relatives, side)
        ]
        for side in ("parents", "dependants")
    }


def _describe_step(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "attempt": step.attempt,
        "finished_at": step.finished_at,
        "result": _shown(lambda: step.result),
    }


def _shown(read: Any) -> Any:
    """Return what *read* returns; values of classes that cannot be imported here are named instead."""
    try:
        return read()
    except DecodeError as error:
        return f"({error})"


def _facts(task: BackgroundTask) -> dict[str, str]:
    now = datetime.now(UTC)
    facts = {
        "id": task.id,
        "call": f"{task.function}({_shown(lambda: _call(task))})",
        "status": f"{task.status.value}{' (cancel requested)' if task.cancel_requested else ''}",
        "queue": f"{task.queue}, {task.pool.value} pool, priority {task.priority}",
        "submitted": f"{task.submitted_at:%Y-%m-%d %H:%M:%S} UTC ({ago(task.submitted_at, now)})",
        "due": ago(task.due_at, now),
        "started": ago(task.started_at, now),
        "finished": ago(task.finished_at, now),
        "failures": f"{task.failures} of at most {task.max_retries + 1}",
    }
    if task.tags:
        facts["tags"] = ", ".join(task.tags)
    if task.cancelled_by is not None:
        facts["cancelled by"] = f"the end of task {task.cancelled_by}, which it needed"
    if task.unique_key is not None:
        facts["unique key"] = task.unique_key
    if task.limit_key is not None:
        facts["limit key"] = task.limit_key
    if task.schedule is not None:
        facts["schedule"] = f"{task.schedule}, for {task.scheduled_for:%Y-%m-%d %H:%M:%S} UTC"
    if task.progress is not None:
        facts["progress"] = str(dict(task.progress))
    if task.status is TaskStatus.COMPLETED:
        facts["result"] = repr(_shown(lambda: task.result))
    return facts


def _call(task: BackgroundTask) -> str:
    args, kwargs = task.arguments
    return ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])


def _attempt_facts(attempt: Attempt) -> dict[str, str]:
    facts = {
        "attempt": f"{attempt.number}: {attempt.outcome.value} after {duration(attempt.run_time)}",
        "worker": attempt.worker,
    }
    used = attempt.traces
    facts["cpu"] = _measured(used.cpu_s, lambda cpu_s: f"{cpu_s:.3f} s")
    facts["peak memory"] = _measured(used.peak_memory_bytes, lambda size: f"{size / 2**20:,.1f} MiB")
    if attempt.error is not None:
        facts["error"] = str(attempt.error)
    return facts


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0]


def _measured(value: N | None, shown: Callable[[N], str]) -> str:
    return "not measured" if value is None else shown(value)


def _texts(attempt: Attempt) -> list[tuple[str, str]]:
    """Return what the attempt wrote, each part with its title."""
    traces = attempt.traces
    parts = (("standard output", traces.stdout), ("standard error", traces.stderr), ("log", traces.log))
    return [(title, text) for title, text in parts if text is not None]
