"""``thirdshift schedules``: what runs again and again; look at it, add to it, pause it, run it now."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from thirdshift.cli.output import Session, print_facts, print_json, print_table
from thirdshift.cli.store import opened
from thirdshift.cli.submit import find_function, parse_arguments
from thirdshift.core.errors import ScheduleNotFound, UsageError
from thirdshift.core.schedule import Missed, Overlap, Schedule
from thirdshift.core.schedule_store import Fire, ScheduleState
from thirdshift.core.words import ago


@click.group()
def schedules() -> None:
    """Look at schedules, add, pause and run them. They are stored; every worker makes their tasks.

    \b
    thirdshift schedules list
    thirdshift schedules add shop.jobs:report --name nightly --cron "0 3 * * *" --timezone Europe/Berlin
    thirdshift schedules preview nightly
    """


@schedules.command("list")
@click.pass_obj
def list_schedules(session: Session) -> None:
    """List every schedule: its rule in words, its next fire time and its last one.

    \b
    thirdshift schedules list
    thirdshift --json schedules list
    """
    with opened(session) as manager:
        found = manager.schedules.all()
    if session.as_json:
        print_json([_described(state) for state in found])
        return
    now = datetime.now(UTC)
    rows = [
        (state.name, state.state, state.words, _moment(state.next_at, state, now), ago(_last(state), now))
        for state in found
    ]
    print_table(("schedule", "state", "fires", "next", "last"), rows)


@schedules.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("arguments", nargs=-1, metavar="[ARGUMENT]...")
@click.option(
    "--name", help="Its name; another schedule of that name is replaced.  [default: from the call and the rule]"
)
@click.option("--cron", metavar="EXPRESSION", help='Five fields, "0 3 * * *", or @hourly, @daily, @weekly, @monthly.')
@click.option("--timezone", default="UTC", show_default=True, help="The zone whose clocks --cron reads.")
@click.option("--every", type=float, metavar="SECONDS", help="In real time, the first one after so long.")
@click.option(
    "--at", type=click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"]), help="Once; local time."
)
@click.option("--missed", type=click.Choice([each.value for each in Missed]), default="run_once", show_default=True)
@click.option("--max-missed", type=click.IntRange(1, 100), default=100, show_default=True, help="With --missed all.")
@click.option("--overlap", type=click.Choice([each.value for each in Overlap]), default="skip", show_default=True)
@click.option(
    "--jitter", type=click.FloatRange(0), default=0.0, help="Each task becomes due up to so many seconds later."
)
@click.option("--queue", help="The queue of its tasks; default: as the function declares.")
@click.option("--app-dir", type=click.Path(path_type=Path), default=".", help="Folder to import from.  [default: .]")
@click.pass_obj
def add(
    session: Session,
    function: str,
    arguments: tuple[str, ...],
    name: str | None,
    cron: str | None,
    timezone: str,
    every: float | None,
    at: datetime | None,
    missed: str,
    max_missed: int,
    overlap: str,
    jitter: float,
    queue: str | None,
    app_dir: Path,
) -> None:
    """Call MODULE:FUNCTION with ARGUMENTs again and again; they are written as for `thirdshift submit`.

    \b
    thirdshift schedules add shop.jobs:report --name nightly --cron "0 3 * * *" --timezone Europe/Berlin
    thirdshift schedules add shop.jobs:sync 7 full=true --every 90 --overlap queue
    """
    schedule = Schedule(
        cron=cron, every=every, at=at, timezone=timezone, missed=missed, max_missed=max_missed, overlap=overlap,
        jitter=jitter,
    )  # fmt: skip
    sys.path.insert(0, str(app_dir.absolute()))
    target = find_function(function)
    args, kwargs = parse_arguments(arguments)
    with opened(session) as manager:
        state = manager.schedules.add(target, schedule, args=args, kwargs=kwargs, name=name, queue=queue)
    if session.as_json:
        print_json(_described(state))
    else:
        click.echo(f"{state.name}: {state.words}; next {_moment(state.next_at, state, datetime.now(UTC))}")


@schedules.command()
@click.argument("schedule")
@click.option("--count", type=click.IntRange(0, 1000), default=5, show_default=True, help="Fire times, and fires.")
@click.pass_obj
def show(session: Session, schedule: str, count: int) -> None:
    """Show SCHEDULE (a name or an id): its rule, what it calls, its next fire times and its last fires.

    \b
    thirdshift schedules show nightly
    """
    with opened(session) as manager:
        state = _known(manager, schedule)
        moments = _preview(manager, state, count)
        fires = manager.schedules.fires(state.id, count)
        statuses = {fire.task: manager.get_task_status(fire.task) for fire in fires if fire.task is not None}
    if session.as_json:
        told = [{**_fire(fire), "status": statuses[fire.task] if fire.task else None} for fire in fires]
        print_json({**_described(state), "preview": moments, "fires": told})
        return
    now = datetime.now(UTC)
    rule = state.rule
    print_facts(
        {
            "schedule": state.name,
            "id": state.id,
            "state": state.state,
            "fires": state.words,
            "rule": _rule(rule),
            "missed": rule["missed"] + (f", at most {rule['max_missed']}" if rule["missed"] == "all" else ""),
            "overlap": rule["overlap"],
            "jitter": f"up to {rule['jitter']:g} s",
            "calls": f"{state.task.function}, queue {state.task.queue}",
            "declared by": {"call": "a call or a command", "code": "its function"}.get(state.source, state.source),
        }
    )
    for moment in moments:
        click.echo(f"next  {_moment(moment, state, now)}")
    for fire in fires:
        status = "no task: another one was unfinished"
        if fire.task is not None:
            found = statuses[fire.task]
            status = f"{fire.task} {found.value if found else 'pruned'}"
        click.echo(f"last  {_moment(fire.nominal, state, now)}  {fire.kind.value}  {status}")


@schedules.command()
@click.argument("schedule")
@click.option("--count", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.pass_obj
def preview(session: Session, schedule: str, count: int) -> None:
    """Show the next fire times of SCHEDULE, or of a cron expression that is not stored yet.

    \b
    thirdshift schedules preview nightly
    thirdshift --json schedules preview nightly --count 30
    thirdshift schedules preview "30 2 * * 0"
    """
    with opened(session) as manager:
        state = manager.schedules.get(schedule)
        if state is None and len(schedule.split()) == 5:
            rule, now = Schedule(cron=schedule), manager.clock.now()
            moments: Sequence[datetime] = rule.preview(now, now, count)
            words, zone = rule.words, "UTC"
        else:
            state = _known(manager, schedule)
            moments, words, zone = _preview(manager, state, count), state.words, state.rule["timezone"]
    if session.as_json:
        print_json({"schedule": schedule, "words": words, "preview": moments})
        return
    click.echo(words, err=True)
    for moment in moments:
        click.echo(_in_zone(moment, zone))


@schedules.command()
@click.argument("schedule")
@click.pass_obj
def pause(session: Session, schedule: str) -> None:
    """Let SCHEDULE make no tasks until it is resumed; that survives restarts.

    \b
    thirdshift schedules pause nightly
    """
    with opened(session) as manager:
        is_changed = manager.schedules.pause(schedule)
    _tell(session, schedule, "paused", is_changed)


@schedules.command()
@click.argument("schedule")
@click.pass_obj
def resume(session: Session, schedule: str) -> None:
    """Let SCHEDULE make tasks again. Fire times that passed meanwhile are not made up for.

    \b
    thirdshift schedules resume nightly
    """
    with opened(session) as manager:
        is_changed = manager.schedules.resume(schedule)
    _tell(session, schedule, "active", is_changed)


@schedules.command("run-now")
@click.argument("schedule")
@click.pass_obj
def run_now(session: Session, schedule: str) -> None:
    """Let SCHEDULE make one task now, and print its id. Exit code 1: it may not overlap another one, and made none.

    \b
    thirdshift schedules run-now nightly
    """
    with opened(session) as manager:
        fire = manager.schedules.run_now(schedule)
    if session.as_json:
        print_json({"schedule": fire.name, **_fire(fire)})
    elif fire.task is not None:
        click.echo(fire.task)
    if fire.task is None:
        click.echo(f"{fire.name} made no task: another one of it is unfinished, and its overlap is skip", err=True)
        raise click.exceptions.Exit(1)


@schedules.command()
@click.argument("schedule")
@click.pass_obj
def delete(session: Session, schedule: str) -> None:
    """Delete SCHEDULE; the tasks that it made go on.

    One that a function or a file declares comes back at the next start of a worker: pause it instead.

    \b
    thirdshift schedules delete nightly
    """
    with opened(session) as manager:
        state = _known(manager, schedule)
        is_changed = manager.schedules.delete(state.id)
    _tell(session, state.name, "deleted", is_changed)


def _known(manager: Any, which: str) -> ScheduleState:
    state: ScheduleState | None = manager.schedules.get(which)
    if state is None:
        raise ScheduleNotFound(which)
    return state


def _preview(manager: Any, state: ScheduleState, count: int) -> Sequence[datetime]:
    try:
        moments: Sequence[datetime] = manager.schedules.preview(state.id, count)
    except UsageError:  # its zone is not known here; its words say so
        return []
    return moments


def _tell(session: Session, schedule: str, word: str, is_changed: bool) -> None:
    if session.as_json:
        print_json({"schedule": schedule, "state": word, "changed": is_changed})
    else:
        click.echo(f"{schedule} is {word}" + ("" if is_changed else " already"))


def _described(state: ScheduleState) -> dict[str, Any]:
    return {
        "id": state.id,
        "name": state.name,
        "state": state.state,
        "words": state.words,
        **state.rule,
        "function": state.task.function,
        "queue": state.task.queue,
        "source": state.source,
        "next_at": state.next_at,
        "paused_at": state.paused_at,
        "ended_at": state.ended_at,
        "last": None if state.last is None else _fire(state.last),
    }


def _fire(fire: Fire) -> dict[str, Any]:
    return {"nominal": fire.nominal, "kind": fire.kind, "at": fire.at, "task": fire.task}


def _last(state: ScheduleState) -> datetime | None:
    return None if state.last is None else state.last.at


def _rule(rule: Any) -> str:
    if rule["cron"] is not None:
        return f"cron {rule['cron']}, {rule['timezone']}"
    return f"every {rule['every']:g} s" if rule["every"] is not None else f"at {rule['at']}"


def _moment(moment: datetime | None, state: ScheduleState, now: datetime) -> str:
    """Return *moment* by the clocks of the schedule's own zone, and how far it is away."""
    return "-" if moment is None else f"{_in_zone(moment, state.rule['timezone'])} ({ago(moment, now)})"


def _in_zone(moment: datetime, timezone: str) -> str:
    from thirdshift.core.schedule_cron import zone_of  # noqa: PLC0415  # as the schedule's words

    try:
        return moment.astimezone(zone_of(timezone)).isoformat(" ", timespec="seconds")
    except UsageError:
        return moment.isoformat(" ", timespec="seconds")
