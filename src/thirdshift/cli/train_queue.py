"""``thirdshift train queue``: the files that wait, and those that were given up."""

from typing import Any

import click

from thirdshift.cli.output import Session, print_json, print_table

_PRIORITY = click.Choice(["high", "normal", "low"])


@click.group()
def queue() -> None:
    """Look at the files that wait for training, and change their order; with a daemon or without.

    \b
    thirdshift train queue list
    thirdshift train queue priority mine.jsonl high
    thirdshift train queue retry mine.jsonl
    thirdshift train queue remove mine.jsonl
    """


@queue.command("list")
@click.pass_obj
def list_(session: Session) -> None:
    """List the files in the order in which they are trained, then those that were given up.

    \b
    thirdshift train queue list
    thirdshift --json train queue list | jq '.failed[].cause'
    """
    answer = _ask(session, {"action": "list"})
    if session.as_json:
        print_json({place: answer[place] for place in ("processing", "waiting", "failed")})
        return
    rows = [(name, "in hand", "") for name in answer["processing"]]
    rows += [(file["name"], file["priority"], _remark(file)) for file in answer["waiting"]]
    rows += [(file["file"], "failed", str(file.get("cause", "no report lies beside it"))) for file in answer["failed"]]
    print_table(("file", "place", "remark"), rows)


@queue.command()
@click.argument("file")
@click.argument("to", type=_PRIORITY)
@click.pass_obj
def priority(session: Session, file: str, to: str) -> None:
    """Give the waiting FILE another priority; it keeps its time of arrival.

    \b
    thirdshift train queue priority mine.jsonl high
    """
    answer = _ask(session, {"action": "priority", "file": file, "priority": to})
    _say(session, answer, f"{answer['file']} waits with priority {to}")


@queue.command()
@click.argument("file")
@click.option("--priority", type=_PRIORITY, default="low", show_default=True, help="The line that it joins.")
@click.pass_obj
def retry(session: Session, file: str, priority: str) -> None:
    """Let the failed or skipped FILE wait again, as if it had just arrived.

    \b
    thirdshift train queue retry mine.jsonl
    """
    answer = _ask(session, {"action": "retry", "file": file, "priority": priority})
    _say(session, answer, f"{answer['file']} waits with priority {priority}")


@queue.command()
@click.argument("file")
@click.pass_obj
def remove(session: Session, file: str) -> None:
    """Delete FILE, which waits or was given up; the one in hand is skipped first.

    \b
    thirdshift train queue remove mine.jsonl
    """
    answer = _ask(session, {"action": "remove", "file": file})
    _say(session, answer, f"{answer['file']} is deleted")


def _ask(session: Session, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the daemon, or where none answers, do it here: the folders are the queue."""
    from thirdshift.apps.training.files.queue import TrainingQueue  # noqa: PLC0415
    from thirdshift.apps.training.files.queue_orders import carry_out  # noqa: PLC0415
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415
    from thirdshift.host.requests import ask  # noqa: PLC0415

    workspace = TrainingWorkspace(session.workspace)
    workspace.create()
    try:
        answer = ask(workspace.socket, {"order": "queue", **request})
    except OSError:
        return carry_out(TrainingQueue(workspace.queue), request)
    if not answer["accepted"]:
        raise click.ClickException(answer["error"])
    return answer


def _remark(file: dict[str, Any]) -> str:
    if file["retry_at"]:
        return f"failed {file['attempts']} times, not before {file['retry_at']}: {file['last_error']}"
    return "goes first: it was interrupted" if file["goes_first"] else f"since {file['arrived_at']}"


def _say(session: Session, answer: dict[str, Any], words: str) -> None:
    if session.as_json:
        print_json(answer)
    else:
        click.echo(words)
