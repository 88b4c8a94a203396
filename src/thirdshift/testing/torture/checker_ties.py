"""The history checker's part for tasks that wait for others (I30): what each may do follows from its parents."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from thirdshift.testing.torture.checker import Event, Snapshot, Task

QUERY = """
SELECT p.id, c.id, d.need, d.state
FROM dependency AS d JOIN task AS p ON p.seq = d.parent JOIN task AS c ON c.seq = d.child
"""
_SAYS_SO = ("cancel", "cancel_all", "submit", "tick", "run_now")
"""Events that may cancel a waiting task for itself."""


class Tie(NamedTuple):
    """One task waits for another."""

    parent: str
    child: str
    need: str
    state: str


def below(tasks: set[str], *snapshots: "Snapshot") -> set[str]:
    """Return what waits for *tasks*, for those, and so on."""
    found: set[str] = set()
    new = tasks
    while new:
        new = {tie.child for each in snapshots for tie in each.ties if tie.parent in new} - found
        found |= new
    return found


def judge(before: "Snapshot", now: "Snapshot", event: "Event") -> Iterator[str]:
    """Yield what is wrong with those that wait, or waited."""
    for tie in now.ties:
        state = _state(now.tasks[tie.parent], tie.need)
        if state != tie.state:
            yield f"{tie.child} waits for {tie.parent}, which is {state} and noted as {tie.state}"
    for child in {tie.child for tie in now.ties}:
        yield from _judge_child(child, before, now, event["op"])
    for tie in before.ties:
        waits = now.tasks.get(tie.child)
        if tie.parent not in now.tasks and waits is not None and not waits.is_finished:
            yield f"{tie.parent} was deleted, and {tie.child} is {waits.status} and needs it"


def _judge_child(child: str, before: "Snapshot", now: "Snapshot", op: str) -> Iterator[str]:
    was, task = before.tasks.get(child), now.tasks[child]
    ties = [tie for tie in now.ties if tie.child == child]
    states = [_state(now.tasks[tie.parent], tie.need) for tie in ties]
    if task.status == "waiting":
        if "failed" in states:
            yield f"{child} waits, and can never run"
        elif "open" not in states:
            yield f"{child} waits for nothing"
    elif task.is_finished:
        if task.status == "cancelled" and _waited(was) and op not in _SAYS_SO and "failed" not in states:
            yield f"{child} was cancelled for nothing"
    elif was is None or _waited(was) or was.is_finished:  # it was let go in this event; later it stays so
        for tie, state in zip(ties, states, strict=True):
            parent = before.tasks.get(tie.parent)
            was_met = parent is not None and _state(parent, tie.need) == "met"
            if state != "met" and not was_met:
                yield f"{child} is {task.status}, and {tie.parent} has not ended as it needs"


def _waited(task: "Task | None") -> bool:
    return task is not None and task.status == "waiting"


def _state(parent: "Task", need: str) -> str:
    if not parent.is_finished:
        return "open"
    return "met" if need == "any" or parent.status == "completed" else "failed"
