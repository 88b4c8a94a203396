"""``thirdshift config``: whether the configuration is right, and where each value comes from."""

import re
from collections.abc import Iterator
from typing import Any

import click

from thirdshift.cli.output import Session, print_json, print_table
from thirdshift.config import WITHOUT_EFFECT, load_settings, origins_of
from thirdshift.core.plain import plain

_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):.*@")
_NO_EFFECT = "no effect yet"


@click.group()
def config() -> None:
    """Check the configuration, and show each value with its origin."""


@config.command()
@click.pass_obj
def check(session: Session) -> None:
    """Tell all problems of file and environment; exit code 78 if there are any.

    Sections of applications are checked by their own commands.

    \b
    thirdshift config check
    """
    load_settings(session.workspace)
    if session.as_json:
        print_json({"ok": True})
        return
    click.echo("the configuration is right")


@config.command()
@click.pass_obj
def show(session: Session) -> None:
    """Show every value and where it comes from; passwords in addresses are masked.

    \b
    thirdshift config show
    """
    settings = load_settings(session.workspace)
    origins = origins_of(session.workspace)
    rows = [
        {
            "key": key,
            "value": _masked(value),
            "origin": origins.get(key, "default"),
            "has_effect": key.split(".")[0] not in WITHOUT_EFFECT,
        }
        for key, value in _leaves(settings.to_dict())
    ]
    if session.as_json:
        print_json(rows)
        return
    cells = [
        (row["key"], str(plain(row["value"])), row["origin"], "" if row["has_effect"] else _NO_EFFECT) for row in rows
    ]
    print_table(("key", "value", "origin", "note"), cells)


def _leaves(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and key != "aliases":
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in value.items())
        else:
            yield key, value


def _masked(value: Any) -> Any:
    return _PASSWORD.sub(r"\1:***@", value) if isinstance(value, str) else value
