"""``thirdshift queues``: look at queues, pause, resume and limit them, and limit keys."""

from dataclasses import asdict

import click

from thirdshift.cli.output import Session, print_json, print_table
from thirdshift.cli.store import opened
from thirdshift.core.limits import QueueLimits


@click.group()
def queues() -> None:
    """Look at queues, pause, resume and limit them, and limit keys; that holds for all workers and survives restarts.

    \b
    thirdshift queues list
    thirdshift queues pause mail
    thirdshift queues limit mail --concurrency 4 --rate 10
    thirdshift queues limit-key customer-7 --concurrency 2
    """


@queues.command("list")
@click.pass_obj
def list_queues(session: Session) -> None:
    """List every queue with its unfinished tasks.

    \b
    thirdshift queues list
    thirdshift --json queues list
    """
    with opened(session) as manager:
        found = manager.queues()
    if session.as_json:
        counts = [{status.value: count for status, count in queue.counts.items()} for queue in found]
        rows = zip(found, counts, strict=True)
        print_json(
            [
                {"name": queue.name, "paused_at": queue.paused_at, **asdict(queue.limits), **count}
                for queue, count in rows
            ]
        )
        return
    print_table(
        ("queue", "state", "limits", "tasks"),
        [
            (
                queue.name,
                "paused" if queue.paused_at else "running",
                _limits(queue.limits),
                ", ".join(f"{count} {status.value}" for status, count in queue.counts.items()) or "none",
            )
            for queue in found
        ],
    )


@queues.command()
@click.argument("queue")
@click.pass_obj
def pause(session: Session, queue: str) -> None:
    """Stop starting tasks of QUEUE; running ones end.

    \b
    thirdshift queues pause mail
    """
    _set_paused(session, queue, True)


@queues.command()
@click.argument("queue")
@click.pass_obj
def resume(session: Session, queue: str) -> None:
    """Start tasks of QUEUE again.

    \b
    thirdshift queues resume mail
    """
    _set_paused(session, queue, False)


@queues.command()
@click.argument("queue")
@click.option("--concurrency", type=click.IntRange(min=1), help="Most tasks that run at once.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Most starts a second, on average.")
@click.option("--burst", type=click.IntRange(min=1), help="Most starts at once.  [default: those of a second]")
@click.pass_obj
def limit(session: Session, queue: str, concurrency: int | None, rate: float | None, burst: int | None) -> None:
    """Limit QUEUE for all workers together, in place of the limits it has; without options: lift them.

    \b
    thirdshift queues limit mail --concurrency 4
    thirdshift queues limit mail --rate 0.5 --burst 10
    thirdshift queues limit mail
    """
    with opened(session) as manager:
        manager.limit_queue(queue, concurrency=concurrency, rate=rate, burst=burst)
    limits = QueueLimits(concurrency=concurrency, rate=rate, burst=burst)
    if session.as_json:
        print_json({"queue": queue, **asdict(limits)})
    else:
        click.echo(f"{queue}: {_limits(limits)}")


@queues.command("limit-key")
@click.argument("key")
@click.option("--concurrency", type=click.IntRange(min=1), required=True, help="Most tasks that run at once.")
@click.pass_obj
def limit_key(session: Session, key: str, concurrency: int) -> None:
    """Let so many tasks with the limit key KEY run at once; 1 is what every key has at first.

    \b
    thirdshift queues limit-key customer-7 --concurrency 2
    """
    with opened(session) as manager:
        manager.limit_key(key, concurrency)
    if session.as_json:
        print_json({"key": key, "concurrency": concurrency})
    else:
        click.echo(f"{key}: {concurrency} at once")


@queues.command("keys")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@click.pass_obj
def list_keys(session: Session, limit: int) -> None:
    """List the limit keys whose tasks run or are due, and those with a limit of their own, by name.

    \b
    thirdshift queues keys
    thirdshift --json queues keys --limit 1000
    """
    with opened(session) as manager:
        found = manager.limit_keys(limit)
    if session.as_json:
        print_json([asdict(each) for each in found])
        return
    rows = [(each.key, f"{each.running} of {each.concurrency}", f"{each.pending:,}") for each in found]
    print_table(("key", "running", "pending"), rows)


def _limits(limits: QueueLimits) -> str:
    parts = []
    if limits.concurrency is not None:
        parts.append(f"{limits.concurrency} at once")
    if limits.rate is not None:
        parts.append(f"{limits.rate:g} a second, {limits.bucket} in a burst")
    return "; ".join(parts) or "none"


def _set_paused(session: Session, queue: str, paused: bool) -> None:
    with opened(session) as manager:
        is_changed = manager.pause_queue(queue) if paused else manager.resume_queue(queue)
    word = "paused" if paused else "running"
    if session.as_json:
        print_json({"queue": queue, "state": word, "changed": is_changed})
    else:
        click.echo(f"{queue} is {word}" + ("" if is_changed else " already"))
