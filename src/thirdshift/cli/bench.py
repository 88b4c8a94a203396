"""``thirdshift bench``: what this machine and the workspace's disk give, and which options follow from that."""

import shutil
import tempfile
from pathlib import Path

import click

from thirdshift.cli.output import Session, print_facts, print_json


@click.command()
@click.option("--seconds", type=click.FloatRange(0.05, 60), default=1.0, show_default=True, help="For each rate.")
@click.option(
    "--on",
    "folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="A folder on the disk in question.  [default: the workspace]",
)
@click.pass_obj
def bench(session: Session, seconds: float, folder: Path | None) -> None:
    """Measure submits, a worker and their latencies on the workspace's disk, and say what follows from that.

    Works on a store of its own, which is deleted in the end; some fifteen seconds. Other work on the machine makes the
    figures worse: stop it, or measure twice.

    \b
    thirdshift bench
    thirdshift --json bench --on backups --seconds 5
    """
    from thirdshift.testing.bench import measure  # noqa: PLC0415  # other commands need no thread pools

    place = Path(tempfile.mkdtemp(prefix=".thirdshift-bench-", dir=folder or session.workspace))
    try:
        report = measure(place, seconds=seconds, tell=lambda what: click.echo(f"measuring: {what} …", err=True))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if session.as_json:
        print_json(report)
        return
    print_facts(
        {figure.name: f"{figure.value:,.{0 if figure.value >= 100 else 3}f} {figure.unit}" for figure in report.figures}
    )
    for verdict in report.verdicts:
        click.echo(f"\n{verdict}")
