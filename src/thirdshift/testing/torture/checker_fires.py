"""The history checker's part for schedules (I36): which fire times have to make which tasks, counted from the rule."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from thirdshift.testing.torture.checker import Event, Snapshot

_SECOND_US = 1_000_000
_ON_TIME_US = 60 * _SECOND_US


class Plan(NamedTuple):
    """One schedule as the file has it."""

    rule: dict[str, Any]
    begun_us: int
    next_us: int | None


class Fire(NamedTuple):
    """One fire time that has come."""

    schedule: str
    nominal_us: int
    kind: str
    at_us: int
    task: str | None

    @property
    def key(self) -> tuple[str, int, str]:
        """What is there once."""
        return self[:3]


def read(connection: sqlite3.Connection) -> tuple[dict[str, Plan], frozenset[Fire]]:
    """Return the schedules by id, and their fires."""
    rows = connection.execute("SELECT id, rule, begun_at, next_at FROM schedule").fetchall()
    plans = {schedule: Plan(json.loads(rule), *moments) for schedule, rule, *moments in rows}
    fires = connection.execute(
        "SELECT s.id, f.nominal, f.kind, f.at, f.task FROM fire AS f JOIN schedule AS s ON s.seq = f.schedule"
    )
    return plans, frozenset(map(Fire._make, fires))


def judge(before: "Snapshot", now: "Snapshot", event: "Event") -> Iterator[str]:
    """Yield what is wrong with the fires and the tasks of schedules."""
    running = Counter(task.schedule for task in now.tasks.values() if task.status == "running" and task.schedule)
    yield from (f"{count} tasks of the schedule {schedule} run" for schedule, count in running.items() if count > 1)
    new = now.fires - before.fires
    known = {fire.key for fire in before.fires}
    if new and event["op"] not in ("tick", "run_now"):
        yield f"{event['op']} has fired {sorted(new)}"
    for fire in new:
        if fire.key in known:
            yield f"{fire} has changed"
        yield from _judge_fire(fire, before, now, event)
    made = {fire.task for fire in new}
    for task in now.tasks.values():
        if task.schedule is not None and task.id not in before.tasks and task.id not in made:
            yield f"{task.id} belongs to no fire of its schedule"
    if event["op"] == "tick" and event["is_alone"]:
        yield from _judge_missing(before, new, event["now_us"])


def _judge_fire(fire: Fire, before: "Snapshot", now: "Snapshot", event: "Event") -> Iterator[str]:
    plan = now.schedules[fire.schedule]
    if fire.kind == "due" and not (_is_fire_time(plan, fire.nominal_us) and fire.nominal_us <= event["now_us"]):
        yield f"{fire} is none of {plan}"
    is_busy = any(task.schedule == fire.schedule and not task.is_finished for task in before.tasks.values())
    if fire.task is None:
        if plan.rule["overlap"] != "skip" or not is_busy:
            yield f"{fire} has made no task, and nothing of {plan} was unfinished"
    elif fire.task in before.tasks or fire.task not in now.tasks or now.tasks[fire.task].schedule != fire.schedule:
        yield f"{fire} has made no task of its own"
    elif plan.rule["overlap"] == "skip" and is_busy:
        yield f"{fire} has made a task beside an unfinished one"


def _judge_missing(before: "Snapshot", new: frozenset[Fire], now_us: int) -> Iterator[str]:
    """A look by one process alone, at one moment: each schedule fires as its rule says, no more and no less."""
    known = {(fire.schedule, fire.nominal_us) for fire in before.fires if fire.kind == "due"}
    for schedule, plan in before.schedules.items():
        wanted = {at for at in _due(plan, now_us) if (schedule, at) not in known}
        found = {fire.nominal_us for fire in new if fire.schedule == schedule and fire.kind == "due"}
        if wanted != found:
            yield f"{schedule} fired for {sorted(found)} at {now_us}, and should for {sorted(wanted)}: {plan}"


def _due(plan: Plan, now_us: int) -> list[int]:
    if plan.next_us is None or plan.next_us > now_us:
        return []
    every = plan.rule["every"]
    times = [plan.next_us] if every is None else list(range(plan.next_us, now_us + 1, round(every * _SECOND_US)))
    newest = times[-(plan.rule["max_missed"] if plan.rule["missed"] == "all" else 1) :]
    is_on_time = now_us - newest[-1] <= _ON_TIME_US
    return newest if is_on_time or plan.rule["missed"] != "skip" else []


def _is_fire_time(plan: Plan, nominal_us: int) -> bool:
    every, at = plan.rule["every"], plan.rule["at"]
    if every is not None:  # before its beginning too, where the clock was set back
        return bool((nominal_us - plan.begun_us) % round(every * _SECOND_US) == 0)
    moment = datetime.fromisoformat(at).astimezone(UTC)
    return nominal_us == round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * _SECOND_US)
