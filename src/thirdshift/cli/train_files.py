"""``thirdshift train validate|add``: a look at a file before it is trained, and dropping one from the command line."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thirdshift.cli.output import Session, print_facts, print_json, print_table

if TYPE_CHECKING:
    from thirdshift.apps.training.inbox.validation_report import ValidationReport

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_BAR = 40


@click.command()
@click.argument("file", type=_FILE)
@click.option("--level", type=click.Choice(["quick", "standard", "deep"]), help="Default: as configured.")
@click.pass_obj
def validate(session: Session, file: Path, level: str | None) -> int:
    """Look at FILE as the daemon would before training it, and change nothing; exits 1 when it would be refused.

    \b
    quick      the form of every line
    standard   also the lengths of 1,000 rows in tokens of the model
    deep       the lengths of all rows, and rows that come again

    \b
    thirdshift train validate my-rows.jsonl
    thirdshift --json train validate my-rows.jsonl --level deep | jq .lengths.longest
    """
    from thirdshift.apps.training.config import config_of  # noqa: PLC0415
    from thirdshift.apps.training.inbox.validation import FileChanged  # noqa: PLC0415
    from thirdshift.apps.training.inbox.validation import validate as look_at  # noqa: PLC0415
    from thirdshift.apps.training.models.measure import measure_of  # noqa: PLC0415
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415

    workspace = TrainingWorkspace(session.workspace)
    config = config_of(workspace)
    chosen: Any = level or config.validation.level
    measure = None if chosen == "quick" else measure_of(workspace, config)
    limit = int(config.validation.max_file_gb * 10**9)
    try:
        report = look_at(file.resolve(), chosen, measure=measure, size_limit_bytes=limit)
    except FileChanged as error:
        raise click.ClickException(f"somebody writes to {file}; look again when it is complete") from error
    if session.as_json:
        print_json(report.to_dict())
    else:
        _show(report)
    return 0 if report.is_sound else 1


@click.command()
@click.argument("files", type=_FILE, nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Train them though the same bytes were trained before.")
@click.pass_obj
def add(session: Session, files: tuple[Path, ...], force: bool) -> None:
    """Copy FILES into the inbox, each under its own name; the daemon takes them from there.

    A file dropped as ``rows.force.jsonl`` is trained though its bytes were before; --force names them so.

    \b
    thirdshift train add my-rows.jsonl
    thirdshift train add --force archive/my-rows.jsonl
    """
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415

    workspace = TrainingWorkspace(session.workspace)
    workspace.create()
    added = [_copy(file, workspace.inbox, force=force) for file in files]
    if session.as_json:
        print_json({"added": [str(path) for path in added]})
    else:
        for path in added:
            click.echo(str(path))


def _copy(file: Path, inbox: Path, *, force: bool) -> Path:
    """Copy *file* under a hidden name and move it when it is whole, so that half of it is never taken."""
    import secrets  # noqa: PLC0415

    from thirdshift.host.files import move_without_overwriting, sync_file  # noqa: PLC0415

    name = file.name if file.suffix == ".jsonl" else f"{file.name}.jsonl"
    if force and not name.endswith(".force.jsonl"):
        name = f"{name.removesuffix('.jsonl')}.force.jsonl"
    hidden = inbox / f".{secrets.token_hex(8)}.part"
    try:
        shutil.copyfile(file, hidden)
        sync_file(hidden)
        return move_without_overwriting(hidden, inbox, name)
    finally:
        hidden.unlink(missing_ok=True)


def _show(report: "ValidationReport") -> None:
    facts = {
        "file": report.file,
        "verdict": "sound" if report.is_sound else "refused: not trained before all of this is mended",
        "level": report.level,
        "rows": f"{report.rows:,} sound, {report.problem_count:,} problems, {report.size_bytes:,} bytes",
    }
    if lengths := report.lengths:
        facts["tokens"] = (
            f"{lengths.tokens:,} in {lengths.rows:,} rows looked at, {lengths.trained_tokens:,} of them said"
        )
        facts["lengths"] = (
            f"{lengths.shortest:,} to {lengths.longest:,}, median {lengths.median:,}, 95 % up to {lengths.p95:,}"
        )
        facts["cut"] = f"{lengths.cut_rows:,} longer than the context of {lengths.context:,}: their questions are cut"
    if duplicates := report.duplicates:
        examples = ", ".join(f"line {line} as line {first}" for line, first in duplicates.examples[:3])
        facts["come again"] = f"{duplicates.rows:,} rows" + (f" ({examples})" if examples else "")
    print_facts(facts)
    if report.lengths and report.lengths.rows:
        most = max(rows for _, rows in report.lengths.histogram)
        click.echo()
        print_table(
            ("tokens up to", "rows", ""),
            [(f"{up_to:,}", f"{rows:,}", "#" * -(-rows * _BAR // most)) for up_to, rows in report.lengths.histogram],
        )
    if report.problems:
        click.echo()
        print_table(
            ("line", "problem"),
            [("-" if problem.line is None else str(problem.line), problem.why) for problem in report.problems],
        )
        if report.problem_count > len(report.problems):
            click.echo(f"and {report.problem_count - len(report.problems):,} more")
