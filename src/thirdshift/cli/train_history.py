"""``thirdshift train history|accept``: what became of every file, and letting one pass that was held back."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thirdshift.cli.output import Session, print_facts, print_json, print_table

if TYPE_CHECKING:
    from thirdshift.apps.training.records.history import FileRecord
    from thirdshift.apps.training.workspace import TrainingWorkspace


@click.command()
@click.argument("file", required=False)
@click.pass_obj
def history(session: Session, file: str | None) -> None:
    """Show what became of every file that was trained, held back or given up, or all about FILE.

    \b
    thirdshift train history
    thirdshift train history my-rows.jsonl
    thirdshift --json train history | jq '.[] | select(.outcome == "held back")'
    """
    from thirdshift.apps.training.records.history import History  # noqa: PLC0415
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415

    found = History(TrainingWorkspace(session.workspace).history)
    records = found.of_file(Path(file).name) if file else found.records()
    for path in found.damaged():
        click.echo(f"damaged: {path}; it is neither replayed nor examined any more, and may be removed", err=True)
    if session.as_json:
        print_json([asdict(record) for record in records])
    elif not records and file:
        raise click.ClickException(f"no training of {file!r} has ended; 'thirdshift train history' lists all that did")
    elif not records:
        click.echo("no training has ended yet")
    elif file:
        for record in records:
            print_facts(_facts(record))
            click.echo("")
    else:
        columns = ("file", "outcome", "rows", "exact match", "loss", "seconds", "tokens", "attempts", "ended")
        print_table(columns, [_row(record) for record in records])


@click.command()
@click.argument("file")
@click.pass_obj
def accept(session: Session, file: str) -> None:
    """Let FILE pass, which was held back because it makes earlier files worse.

    It waits in the queue again, before all others, and is published this time. When no other file was trained since,
    nothing is trained anew. Once it is published, the same content is judged again like any other.

    \b
    thirdshift train history my-rows.jsonl
    thirdshift train accept my-rows.jsonl
    """
    from thirdshift.apps.training.files.queue import TrainingQueue  # noqa: PLC0415
    from thirdshift.apps.training.records.history import HELD_BACK, History  # noqa: PLC0415
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415

    workspace = TrainingWorkspace(session.workspace)
    found = History(workspace.history)
    failed = _failed_report(workspace, Path(file).name)
    key = failed.get("history", Path(file).name)
    records = found.of_file(key)
    if not records:
        raise click.ClickException(f"no training of {file!r} has ended; 'thirdshift train history' lists all that did")
    record = records[-1]
    if record.outcome != HELD_BACK:
        raise click.ClickException(f"{file!r} was not held back: it was {record.outcome}; there is nothing to accept")
    found.accept(record.data_hash)
    if failed:
        TrainingQueue(workspace.queue).retry(Path(file).name, "high")
    if session.as_json:
        print_json({"file": record.file, "key": record.key, "is_queued": bool(failed)})
    elif failed:
        click.echo(f"{file} waits in the queue, before all others, and is published this time")
    else:
        click.echo(f"{file} is accepted; 'thirdshift train run {file}' publishes it")


def _failed_report(workspace: "TrainingWorkspace", name: str) -> Mapping[str, Any]:
    """Return the report beside the file *name* in ``queue/failed``; empty when it is not there."""
    try:
        document: Mapping[str, Any] = json.loads((workspace.failed / f"{name}.report.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return document if (workspace.failed / name).is_file() else {}


def _row(record: "FileRecord") -> tuple[str, ...]:
    from thirdshift.apps.training.job import FileResult  # noqa: PLC0415

    attempts = str(len(record.attempts))
    if not record.result:
        return (record.file, record.outcome, "-", "-", "-", "-", "-", attempts, _moment(record.ended_at))
    result = FileResult.from_document(dict(record.result))
    return (
        record.file,
        record.outcome,
        f"{result.rows:,}",
        f"{result.accuracy_before:.1%} -> {result.accuracy_after:.1%}",
        f"{result.first_loss:.3f} -> {result.last_loss:.3f}",
        f"{result.seconds:,.1f}",
        f"{result.tokens:,}",
        attempts,
        _moment(record.ended_at),
    )


def _facts(record: "FileRecord") -> dict[str, str]:
    from thirdshift.apps.training.job import FileResult  # noqa: PLC0415

    facts = {"file": record.file, "outcome": record.outcome, "ended": _moment(record.ended_at), "record": record.key}
    facts |= {f"cause {number}": cause for number, cause in enumerate(record.causes, start=1)}
    for number, attempt in enumerate(record.attempts, start=1):
        facts[f"attempt {number}"] = f"{_moment(attempt['began_at'])}, {attempt['how']}, step {attempt['step']}"
    if record.result:
        result = FileResult.from_document(dict(record.result))
        facts |= {
            "rows": f"{result.rows:,} trained, {result.held_out_rows:,} held out, {result.replay_rows:,} replayed",
            "steps": f"{result.total_steps:,} in {result.seconds:,.1f} s, {result.tokens:,} tokens",
            "loss": f"{result.first_loss:.4f} at first, {result.last_loss:.4f} at last",
            "checkpoint": result.checkpoint,
            "content": record.data_hash,
            "model": f"{record.base_hash} before, {record.model_hash} after",
        }
        for name, after in (result.after | result.earlier_after).items():
            before = (result.before | result.earlier_before)[name]
            facts[f"exact match, {name}"] = f"{before.accuracy:.1%} -> {after.accuracy:.1%} of {after.asked}"
        facts |= {f"missing {number}": missing for number, missing in enumerate(result.missing, start=1)}
    return facts


def _moment(iso: str) -> str:
    return iso[:19].replace("T", " ")
