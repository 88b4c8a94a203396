"""``thirdshift tasks cancel``, ``retry`` and ``delete``: some tasks by their ids, or many by a filter.

What a filter means is counted and shown before anything is changed.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from thirdshift.cli.output import Session, print_json
from thirdshift.cli.store import opened
from thirdshift.cli.upkeep import progress_line
from thirdshift.core.engine import BulkProgress, TaskFilter, TellRefused
from thirdshift.core.errors import ChangeRefused, TaskNotFound, UsageError
from thirdshift.core.status import FINISHED, TaskStatus

if TYPE_CHECKING:
    from thirdshift.manager import BackgroundTaskManager

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_LONGEST_S = 100 * 366 * 86400


@dataclass(frozen=True, kw_only=True)
class Change:
    """One of the changes, as people know it."""

    verb: str
    done: str
    statuses: frozenset[TaskStatus]
    """What can be changed so."""
    otherwise: str
    """What the others are, and what helps."""
    one: Callable[["BackgroundTaskManager", str], bool]
    many: Callable[["BackgroundTaskManager", TaskFilter, BulkProgress, TellRefused], int]
    age_of: str
    """The moment that ``--older-than`` is about."""


_CANCEL = Change(
    verb="cancel",
    done="cancelled",
    statuses=frozenset(TaskStatus) - FINISHED,
    otherwise="finished tasks cannot be cancelled",
    one=lambda manager, task_id: manager.cancel_task(task_id),
    many=lambda manager, wanted, report, _refused: manager.cancel_tasks(wanted, report),
    age_of="submitted_before",
)
_RETRY = Change(
    verb="retry",
    done="retried",
    statuses=FINISHED,
    otherwise="unfinished tasks have their turn coming",
    one=lambda manager, task_id: manager.retry_task(task_id),
    many=lambda manager, wanted, report, refused: manager.retry_tasks(wanted, report, refused),
    age_of="finished_before",
)
_DELETE = Change(
    verb="delete",
    done="deleted",
    statuses=FINISHED,
    otherwise="unfinished tasks are never deleted, cancel them first",
    one=lambda manager, task_id: manager.delete_task(task_id),
    many=lambda manager, wanted, report, refused: manager.delete_tasks(wanted, report, refused),
    age_of="finished_before",
)


def _span(_context: click.Context, _parameter: click.Parameter, text: str | None) -> timedelta | None:
    """Read a span of time such as ``90s``, ``30min``, ``12h`` or ``7d``."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?) ?(s|min|h|d)", text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no span of time; write 90s, 30min, 12h or 7d")
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds > _LONGEST_S:
        raise click.BadParameter(f"{text!r} is longer than a hundred years")
    return timedelta(seconds=seconds)


def _chosen(function: F) -> F:
    """Add what all changes take: ids or a filter, and whether to ask."""
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask; needed where nobody can answer."),
        click.option(
            "--older-than", callback=_span, metavar="SPAN", help="Only tasks older than this: 90s, 30min, 12h, 7d."
        ),
        click.option("--fingerprint", help="Only tasks whose last error has this cause; see `tasks failures`."),
        click.option("--tag", help="Only tasks with this tag."),
        click.option("--queue", help="Only tasks of this queue."),
        click.option("--name", help="Only tasks of this name."),
        click.option(
            "--status",
            "statuses",
            multiple=True,
            type=click.Choice([each.value for each in TaskStatus]),
            help="May repeat.",
        ),
        click.argument("task_ids", nargs=-1, metavar="[ID]..."),
    ):
        function = option(function)
    return function


@click.command()
@_chosen
@click.pass_obj
def cancel(session: Session, /, **chosen: Any) -> None:
    """Cancel tasks by ID, or all unfinished ones that match; running ones are told to stop.

    Older than: submitted longer ago. With a filter, the tasks are counted and shown first.

    \b
    thirdshift tasks cancel 01a2014090b85ea87fe9b5cbd25f0723
    thirdshift tasks cancel --queue mail --older-than 12h
    thirdshift --json tasks cancel --name send --yes
    """
    _make(_CANCEL, session, **chosen)


@click.command()
@_chosen
@click.pass_obj
def retry(session: Session, /, **chosen: Any) -> None:
    """Run finished tasks again with all their retries, by ID or all that match.

    Older than: finished longer ago. With a filter, the tasks are counted and shown first.

    \b
    thirdshift tasks retry 01a2014090b85ea87fe9b5cbd25f0723
    thirdshift tasks retry --status failed --queue mail
    thirdshift tasks retry --fingerprint ValueError@shop.mail:send
    thirdshift --json tasks retry --status failed --older-than 1h --yes
    """
    _make(_RETRY, session, **chosen)


@click.command()
@_chosen
@click.pass_obj
def delete(session: Session, /, **chosen: Any) -> None:
    """Delete finished tasks with their attempts and results, by ID or all that match; unfinished ones never.

    Older than: finished longer ago. With a filter, the tasks are counted and shown first.

    \b
    thirdshift tasks delete 01a2014090b85ea87fe9b5cbd25f0723
    thirdshift tasks delete --status completed --older-than 30d
    """
    _make(_DELETE, session, **chosen)


def _make(
    change: Change,
    session: Session,
    task_ids: tuple[str, ...],
    yes: bool,
    statuses: tuple[str, ...],
    older_than: timedelta | None,
    **others: str | None,
) -> None:
    is_filtered = bool(statuses) or older_than is not None or any(value is not None for value in others.values())
    if bool(task_ids) is is_filtered:
        raise UsageError(
            f"Name the tasks to {change.verb} by their ids, or choose them by --status, --name, --queue, --tag, "
            f"--fingerprint or --older-than{', not both' if is_filtered else ''}."
        )
    if task_ids:
        _change_by_id(change, session, task_ids)
        return
    wanted = _filter(change, frozenset(map(TaskStatus, statuses)), older_than, others)
    _change_by_filter(change, session, wanted, yes)


def _change_by_id(change: Change, session: Session, task_ids: tuple[str, ...]) -> None:
    """Change each; the answer for one id is about that task, for several it is their list."""
    with opened(session) as manager:
        answers = [_change_one(change, manager, task_id) for task_id in task_ids]
    if len(answers) == 1 and answers[0]["status"] is None and not answers[0][change.done]:
        raise TaskNotFound(task_ids[0])
    done = sum(answer[change.done] for answer in answers)
    if session.as_json:
        print_json(answers[0] if len(answers) == 1 else {"ids": len(answers), change.done: done, "tasks": answers})
    else:
        for answer in answers:
            click.echo(_said(change, answer))
    if done < len(answers):
        raise click.exceptions.Exit(1)


def _change_one(change: Change, manager: "BackgroundTaskManager", task_id: str) -> dict[str, Any]:
    refused: dict[str, str] = {}
    try:
        is_changed = change.one(manager, task_id)
    except ChangeRefused as refusal:
        is_changed, refused = False, {"refused": str(refusal)}
    status = manager.get_task_status(task_id)
    return {"id": task_id, change.done: is_changed, "status": None if status is None else status.value, **refused}


def _said(change: Change, answer: Mapping[str, Any]) -> str:
    if answer[change.done]:
        return f"{answer['id']} {change.done}"
    if answer["status"] is None:
        return f"{answer['id']} was not {change.done}: there is no such task"
    if "refused" in answer:
        return f"{answer['id']} was not {change.done}: {answer['refused']}"
    return f"{answer['id']} was not {change.done}: it is {answer['status']}{_help_for(change)}"


def _help_for(change: Change) -> str:
    return f"; {change.otherwise}" if change is _DELETE else ""


def _filter(
    change: Change, statuses: frozenset[TaskStatus], older_than: timedelta | None, others: Mapping[str, str | None]
) -> TaskFilter:
    wrong = sorted(status.value for status in statuses - change.statuses)
    if wrong:
        raise UsageError(f"--status {', '.join(wrong)}: {change.otherwise}.")
    moments = {} if older_than is None else {change.age_of: datetime.now(UTC) - older_than}
    return TaskFilter(statuses=statuses or change.statuses, **others, **moments)  # type: ignore[arg-type]


def _change_by_filter(change: Change, session: Session, wanted: TaskFilter, yes: bool) -> None:
    with opened(session) as manager:
        counts = {status: count for status, count in manager.count_tasks(wanted).items() if count}
        matched = sum(counts.values())
        if matched and not yes:
            _demand_consent(change, session, counts)
        done = 0
        refused: dict[str, str] = {}
        if matched:
            with progress_line(change.done) as report:
                done = change.many(manager, wanted, report, lambda task_id, why: refused.update({task_id: str(why)}))
    if session.as_json:
        by_status = {status.value: count for status, count in counts.items()}
        answer = {"matched": matched, "counts": by_status, change.done: done}
        print_json({**answer, "refused": refused} if refused else answer)
    elif not matched:
        click.echo(f"no task matches; nothing to {change.verb}")
    else:
        click.echo(f"{change.done} {done:,} of {_words(counts)}{_left(refused)}")


def _left(refused: Mapping[str, str]) -> str:
    if not refused:
        return ""
    task_id, why = next(iter(refused.items()))
    return f"; {len(refused):,} left as they are, such as {task_id}: {why}"


def _demand_consent(change: Change, session: Session, counts: Mapping[TaskStatus, int]) -> None:
    """Ask on a terminal; elsewhere, somebody has to have said --yes."""
    is_asked = sys.stdin.isatty() and sys.stderr.isatty() and not session.as_json
    if is_asked and click.confirm(f"{change.verb} {_words(counts)}?", err=True):
        return
    if is_asked:
        raise click.Abort
    raise UsageError(f"this would {change.verb} {_words(counts)}; nothing was changed. Say --yes to do it.")


def _words(counts: Mapping[TaskStatus, int]) -> str:
    total = sum(counts.values())
    by_status = ", ".join(f"{count:,} {status.value}" for status, count in counts.items())
    return f"{total:,} task{'' if total == 1 else 's'} ({by_status})"
