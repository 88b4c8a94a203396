"""``thirdshift train checkpoints``: what is there to go on from, whether it is sound, and bringing one back."""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from thirdshift.cli.output import Session, print_json, print_table

if TYPE_CHECKING:
    from thirdshift.apps.training.saving.checkpoints import Checkpoint, CheckpointStore


@dataclass(frozen=True, kw_only=True)
class _Line:
    name: str
    step: int
    total_steps: int
    data_name: str
    loss: float | None
    size_bytes: int
    why: str
    """Why it is kept: "newest", "best", both, or empty."""


@click.group()
def checkpoints() -> None:
    """List, verify and bring back the checkpoints of this workspace.

    \b
    thirdshift train checkpoints list
    thirdshift train checkpoints verify
    thirdshift train checkpoints restore ckpt-000012 --to /tmp/model
    """


@checkpoints.command("list")
@click.pass_obj
def list_(session: Session) -> None:
    """Show all checkpoints, oldest first, and those that were found damaged and set aside.

    \b
    thirdshift train checkpoints list
    thirdshift --json train checkpoints list | jq '.damaged[].problems'
    """
    store = _store(session)
    lines = _lines(store) if store else []
    damaged = store.damaged() if store else []
    if session.as_json:
        print_json({"checkpoints": [asdict(line) for line in lines], "damaged": [asdict(each) for each in damaged]})
        return
    if not lines and not damaged:
        click.echo("there is no checkpoint yet; the first comes with the first training")
    if lines:
        print_table(["checkpoint", "step", "file", "loss", "size", "is"], [_row(line) for line in lines])
    for each in damaged:
        click.echo(f"damaged: {each.path}: {'; '.join(each.problems)}")


@checkpoints.command()
@click.argument("names", nargs=-1)
@click.pass_obj
def verify(session: Session, names: tuple[str, ...]) -> int:
    """Read every byte of the checkpoints NAMES (all, when none is named) and compare it with what was written.

    Nothing is changed; a training sets damaged ones aside by itself. The exit code is 1 when one is damaged.

    \b
    thirdshift train checkpoints verify
    thirdshift train checkpoints verify ckpt-000012
    """
    from thirdshift.core.errors import DamagedDirectory  # noqa: PLC0415
    from thirdshift.storage.verified import verify as verify_directory  # noqa: PLC0415

    store = _store(session)
    paths = [_named(store, name) for name in names] if names else store.paths() if store else []
    found: list[dict[str, Any]] = []
    for path in paths:
        problems: tuple[str, ...] = ()
        try:
            verify_directory(path)
        except DamagedDirectory as damage:
            problems = damage.problems
        found.append({"name": path.name, "is_sound": not problems, "problems": list(problems)})
    if session.as_json:
        print_json(found)
    else:
        for each in found:
            click.echo(f"{each['name']}  {'sound' if each['is_sound'] else 'damaged: ' + '; '.join(each['problems'])}")
        if not found:
            click.echo("there is no checkpoint to verify")
    return int(not all(each["is_sound"] for each in found))


@checkpoints.command()
@click.argument("name")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="A new folder, instead of the current model.")
@click.pass_obj
def restore(session: Session, name: str, folder: Path | None) -> None:
    """Make the checkpoint NAME the current model again, or copy it to a new folder; every byte is verified.

    The current model is replaced file by file and loads at every moment. Not while the daemon of the workspace runs.

    \b
    thirdshift train checkpoints restore ckpt-000012
    thirdshift train checkpoints restore ckpt-000012 --to /tmp/model
    """
    from thirdshift.apps.training.models.publish import publish_current_model  # noqa: PLC0415
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415
    from thirdshift.host.instance import PIDManager  # noqa: PLC0415
    from thirdshift.storage.verified import copy_verified  # noqa: PLC0415

    store = _store(session)
    path = _named(store, name)
    assert store is not None
    workspace = TrainingWorkspace(session.workspace)
    target = folder.absolute() if folder else workspace.current_model
    with store.in_use(path):
        if folder:
            copy_verified(path, target, facts={"restored_from": name})
        else:
            with PIDManager(workspace.pid_file, "the training daemon"):
                publish_current_model(path, target)
    if session.as_json:
        print_json({"checkpoint": name, "restored_to": str(target)})
    else:
        click.echo(f"{name} is restored to {target}")


def _store(session: Session) -> "CheckpointStore | None":
    """Return the workspace's store, None when there is none yet: looking makes no folders."""
    from thirdshift.apps.training.saving.checkpoints import CheckpointStore  # noqa: PLC0415
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415

    directory = TrainingWorkspace(session.workspace).checkpoints
    return CheckpointStore(directory) if directory.is_dir() else None


def _named(store: "CheckpointStore | None", name: str) -> Path:
    known = {path.name: path for path in store.paths()} if store else {}
    if name not in known:
        raise click.ClickException(
            f"there is no checkpoint {name!r}; 'thirdshift train checkpoints list' shows {len(known)} names"
        )
    return known[name]


def _lines(store: "CheckpointStore") -> list[_Line]:
    found = store.list()
    best = store.best(found[-1].facts.plan_hash) if found else None
    return [
        _line(each, [*(["newest"] if each is found[-1] else []), *(["best"] if each == best else [])]) for each in found
    ]


def _line(checkpoint: "Checkpoint", why: list[str]) -> _Line:
    from thirdshift.storage.verified import read_manifest  # noqa: PLC0415

    facts = checkpoint.facts
    return _Line(
        name=checkpoint.path.name,
        step=facts.step,
        total_steps=facts.total_steps,
        data_name=facts.data_name,
        loss=fmean(facts.last_losses) if facts.last_losses else None,
        size_bytes=read_manifest(checkpoint.path).size_bytes,
        why=", ".join(why),
    )


def _row(line: _Line) -> list[str]:
    loss = "-" if line.loss is None else f"{line.loss:.4f}"
    step, size = f"{line.step} of {line.total_steps}", f"{line.size_bytes / 1e6:,.1f} MB"
    return [line.name, step, line.data_name, loss, size, line.why]
