"""``thirdshift queues``: look at queues, pause and resume them."""

import click

from thirdshift.cli.output import Session, print_json, print_table
from thirdshift.cli.store import opened


@click.group()
def queues() -> None:
    """Look at queues, pause and resume them; that holds for all workers and survives restarts.

    \b
    thirdshift queues list
    thirdshift queues pause mail
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
        print_json([{"name": queue.name, "paused_at": queue.paused_at, **count} for queue, count in rows])
        return
    print_table(
        ("queue", "state", "tasks"),
        [
            (
                queue.name,
                "paused" if queue.paused_at else "running",
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


def _set_paused(session: Session, queue: str, paused: bool) -> None:
    with opened(session) as manager:
        is_changed = manager.pause_queue(queue) if paused else manager.resume_queue(queue)
    word = "paused" if paused else "running"
    if session.as_json:
        print_json({"queue": queue, "state": word, "changed": is_changed})
    else:
        click.echo(f"{queue} is {word}" + ("" if is_changed else " already"))
