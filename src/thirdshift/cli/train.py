"""``thirdshift train``: talk to the training daemon, or train without it.

Orders go to the daemon's socket, which says whether they are accepted; where it has none, they are laid as files.
"""

from typing import Any

import click

from thirdshift.cli.checkpoints import checkpoints
from thirdshift.cli.output import Session, print_facts, print_json
from thirdshift.cli.status import describe
from thirdshift.cli.train_chat import chat
from thirdshift.cli.train_files import add, validate
from thirdshift.cli.train_here import evaluate, generate, run
from thirdshift.cli.train_history import accept, history
from thirdshift.cli.train_queue import queue
from thirdshift.cli.train_report import report


@click.group()
def train() -> None:
    """Talk to the training daemon of this workspace, or train and examine without it.

    \b
    thirdshift train run FILE
    thirdshift train validate FILE
    thirdshift train add FILE
    thirdshift train evaluate
    thirdshift train generate --count 1000
    thirdshift train status
    thirdshift train pause
    thirdshift train queue list
    thirdshift train trigger snapshot
    thirdshift train checkpoints list
    thirdshift train history
    thirdshift train report
    thirdshift train chat
    """


for _command in (add, validate, run, evaluate, generate, checkpoints, queue, history, accept, report, chat):
    train.add_command(_command)


@train.command()
@click.pass_obj
def status(session: Session) -> None:
    """Show what the training daemon is doing.

    \b
    thirdshift train status
    thirdshift --json train status | jq .loss
    """
    document = describe(session)
    facts = {**{key: document[key] for key in ("daemon", "state", "reason")}, **(document["training"] or {})}
    if session.as_json:
        print_json(facts)
    else:
        print_facts({name: "-" if value is None else str(value) for name, value in facts.items()})


@train.command()
@click.pass_obj
def pause(session: Session) -> None:
    """Stop training at the next micro-batch, with a checkpoint; holds until `resume`, also over restarts.

    \b
    thirdshift train pause
    """
    _order(session, {"order": "pause"}, "the daemon pauses at the next micro-batch", word="pause", keep=True)


@train.command()
@click.pass_obj
def resume(session: Session) -> None:
    """Go on after a pause.

    \b
    thirdshift train resume
    """
    _order(session, {"order": "resume"}, "the daemon goes on", word="resume", keep=True)


@train.command()
@click.option("--after-file", "form", flag_value="after-file", help="Train the file in hand to its end before.")
@click.option("--now", "form", flag_value="now", help="Wait for nothing; what the last checkpoint lacks is repeated.")
@click.pass_obj
def stop(session: Session, form: str | None) -> None:
    """End the daemon at the next micro-batch, with a checkpoint; the next start goes on from there.

    \b
    thirdshift train stop
    thirdshift train stop --after-file
    thirdshift train stop --now
    """
    form = form or "step"
    meanings = {
        "step": "the daemon stops at the next micro-batch",
        "after-file": "the daemon stops after the file in hand",
        "now": "the daemon stops at once; the next start goes on from the last checkpoint",
    }
    word = {"step": "stop", "after-file": "stop_after_file", "now": "stop_now"}[form]
    _order(session, {"order": "stop", "form": form}, meanings[form], word=word)


@train.command()
@click.pass_obj
def skip(session: Session) -> None:
    """Give up the file in hand and go on with the next; the file lies in queue/failed, `queue retry` brings it back.

    What was trained of it is in no model.

    \b
    thirdshift train skip
    """
    _order(session, {"order": "skip"}, "the daemon skips the file in hand", word="skip")


@train.command()
@click.argument("what", type=click.Choice(["snapshot"]))
@click.pass_obj
def trigger(session: Session, what: str) -> None:
    """Start a chore now: a verified snapshot of the newest checkpoint.

    \b
    thirdshift train trigger snapshot
    """
    request = {"order": "trigger", "chore": what}
    _order(session, request, f"the daemon takes a {what} in the background", word=f"trigger_{what}", keep=True)


def _order(session: Session, request: dict[str, Any], meaning: str, *, word: str, keep: bool = False) -> None:
    """Order the daemon; one that cannot be asked finds *word* as a file, one that does not run only if *keep*."""
    from thirdshift.apps.training.control import ControlFolder  # noqa: PLC0415
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415
    from thirdshift.host.lock import held_by_somebody  # noqa: PLC0415
    from thirdshift.host.requests import ask  # noqa: PLC0415

    workspace = TrainingWorkspace(session.workspace)
    is_running = held_by_somebody(workspace.pid_file)
    if not is_running and not keep:
        raise click.ClickException(f"no daemon is running in this workspace; there is nothing to {request['order']}")
    workspace.create()
    control = ControlFolder(workspace.control)
    is_accepted = False
    if is_running:
        try:
            answer = ask(workspace.socket, request)
        except OSError:  # it has no socket, or is just starting
            control.request(word)
        else:
            if not answer["accepted"]:
                raise click.ClickException(f"the daemon refuses: {answer['error']}")
            is_accepted = True
    elif word in ("pause", "resume"):
        control.set_paused(word == "pause")
    else:
        control.request(word)
    if session.as_json:
        document = {"order": word, "daemon": "running" if is_running else "stopped", "accepted": is_accepted}
        print_json(document)
    elif is_accepted:
        click.echo(f"accepted: {meaning}")
    elif is_running:
        click.echo(f"laid as a file, for the daemon has no socket: {meaning}")
    else:
        click.echo(f"no daemon is running; at its next start {meaning}")
