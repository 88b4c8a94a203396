"""``thirdshift train``: talk to the training daemon, or train without it.

Words to the daemon are laid as files; it takes them within a second.
"""

import click

from thirdshift.cli.checkpoints import checkpoints
from thirdshift.cli.output import Session, print_facts, print_json
from thirdshift.cli.status import describe
from thirdshift.cli.train_here import evaluate, generate, run


@click.group()
def train() -> None:
    """Talk to the training daemon of this workspace, or train and examine without it.

    \b
    thirdshift train run FILE
    thirdshift train evaluate
    thirdshift train generate --count 1000
    thirdshift train status
    thirdshift train pause
    thirdshift train trigger snapshot
    thirdshift train checkpoints list
    """


for _command in (run, evaluate, generate, checkpoints):
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
    _request(session, "pause", "the daemon pauses at the next micro-batch", at_once=True)


@train.command()
@click.pass_obj
def resume(session: Session) -> None:
    """Go on after a pause.

    \b
    thirdshift train resume
    """
    _request(session, "resume", "the daemon goes on", at_once=True)


@train.command()
@click.pass_obj
def stop(session: Session) -> None:
    """End the daemon at the next micro-batch, with a checkpoint; the next start goes on from there.

    \b
    thirdshift train stop
    """
    _request(session, "stop", "the daemon stops at the next micro-batch")


@train.command()
@click.argument("what", type=click.Choice(["snapshot"]))
@click.pass_obj
def trigger(session: Session, what: str) -> None:
    """Start a chore now: a verified snapshot of the newest checkpoint.

    \b
    thirdshift train trigger snapshot
    """
    _request(session, f"trigger_{what}", f"the daemon takes a {what} in the background", at_once=True)


def _request(session: Session, word: str, meaning: str, *, at_once: bool = False) -> None:
    """Lay *word*. Without a daemon, *at_once* keeps it for the next one; other words would be meant for nobody."""
    from thirdshift.apps.training.control import ControlFolder  # noqa: PLC0415
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415
    from thirdshift.host.lock import held_by_somebody  # noqa: PLC0415

    workspace = TrainingWorkspace(session.workspace)
    is_running = held_by_somebody(workspace.pid_file)
    if not is_running and not at_once:
        raise click.ClickException("no daemon is running in this workspace; there is nothing to stop")
    workspace.create()
    control = ControlFolder(workspace.control)
    if not is_running and word in ("pause", "resume"):
        control.set_paused(word == "pause")
    else:
        control.request(word)
    when = meaning if is_running else f"no daemon is running; at its next start {meaning}"
    if session.as_json:
        print_json({"order": word, "daemon": "running" if is_running else "stopped"})
    else:
        click.echo(when)
