"""``thirdshift tasks prune`` and ``vacuum``: what keeps the file small."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from thirdshift.cli.output import Session, print_json
from thirdshift.cli.store import opened
from thirdshift.core.engine import BulkProgress


@click.command()
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.pass_obj
def prune(session: Session, dry_run: bool) -> None:
    """Delete finished tasks that are older or more than the configuration keeps (section `pruning`).

    Workers do the same by themselves, little by little. Unfinished tasks are never deleted.

    \b
    thirdshift tasks prune --dry-run
    thirdshift tasks prune
    """
    with opened(session) as manager, progress_line("deleted") as report:
        counts = manager.prune(dry_run=dry_run, report=report)
    total = sum(counts.values())
    if session.as_json:
        by_status = {status.value: count for status, count in counts.items()}
        print_json({"dry_run": dry_run, "pruned": 0 if dry_run else total, "prunable": total, "counts": by_status})
        return
    words = ", ".join(f"{count:,} {status.value}" for status, count in counts.items())
    click.echo(f"{'would delete' if dry_run else 'deleted'} {total:,} tasks ({words})")


@click.command()
@click.pass_obj
def vacuum(session: Session) -> None:
    """Give the space of deleted tasks back to the disk, in small steps, while others work.

    \b
    thirdshift tasks vacuum
    """
    with opened(session) as manager, progress_line("pages given back") as report:
        done = manager.vacuum(report)
    if session.as_json:
        print_json(done)
        return
    click.echo(f"{_megabytes(done.before_bytes)} before, {_megabytes(done.after_bytes)} after")
    if done.file_bytes > done.after_bytes:
        click.echo("the file itself shrinks when a worker next moves its log into it", err=True)


@contextmanager
def progress_line(what: str) -> Iterator[BulkProgress]:
    """Show on a terminal how far a long change is, on standard error; says nothing in a pipe."""
    from rich.console import Console  # noqa: PLC0415  # only long changes need it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as line:
        bar = line.add_task(what, total=None)
        report: Callable[[int, int], None] = lambda done, total: line.update(bar, completed=done, total=total)  # noqa: E731
        yield report


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
