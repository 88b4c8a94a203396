"""How commands speak: people's words, or one JSON document on standard output (``--json``)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from thirdshift.config import database_of
from thirdshift.core.plain import plain


@dataclass(frozen=True, kw_only=True)
class Session:
    """What every command knows: the workspace, and whether it answers in JSON."""

    workspace: Path
    as_json: bool

    @property
    def database(self) -> Path:
        """The workspace's database file."""
        return database_of(self.workspace)


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(plain(document), indent=1, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print *rows* under *columns*: as a table for people, separated by tabs in a pipe."""
    from rich.console import Console  # noqa: PLC0415  # only tables need it
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    if not console.is_terminal:
        for row in [columns, *rows]:
            click.echo("\t".join(row))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print one fact a line, names aligned."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {value}")
