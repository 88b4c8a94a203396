"""``thirdshift config``: a file to begin with, whether the configuration is right, where each value comes from."""

import re
from collections.abc import Iterator
from typing import Any

import click

from thirdshift.cli.output import Session, print_json, print_table
from thirdshift.config import FILE_NAME, WITHOUT_EFFECT, find_file, load_settings, origins_of, schema, template
from thirdshift.core.errors import UsageError
from thirdshift.core.plain import plain

_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):.*@")
_NO_EFFECT = "no effect yet"


@click.group()
def config() -> None:
    """Begin a configuration, check it, and show each value with its origin."""


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


@config.command()
@click.pass_obj
def init(session: Session) -> None:
    """Write thirdshift.yaml with every section, key and default, all as comments; never overwrites a file.

    \b
    thirdshift config init
    """
    path = session.workspace / FILE_NAME
    before = find_file(session.workspace)
    session.workspace.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template(_applications()))
    except FileExistsError:
        raise UsageError(f"{path} exists, and is left as it is; move it away to begin anew") from None
    after = find_file(session.workspace)
    if before is not None and before != after:
        click.echo(f"until now {before} held: from now on it is not read, so move over what you set there", err=True)
    elif after != path:
        click.echo(f"{path} is not read while THIRDSHIFT_CONFIG names {after}", err=True)
    if session.as_json:
        print_json({"path": str(path)})
        return
    click.echo(f"{path} says what can be set; nothing is set yet")


@config.command(name="schema")
def show_schema() -> None:
    """Print the JSON schema of thirdshift.yaml, with which editors complete and check it.

    \b
    thirdshift config schema > thirdshift.schema.json
    # and as the first line of thirdshift.yaml, for the YAML language server:
    # yaml-language-server: $schema=thirdshift.schema.json
    """
    print_json(schema(_applications()))


def _applications() -> dict[str, type[Any]]:
    """Return the sections of applications, by their key."""
    from thirdshift.apps.training.config import DaemonConfig  # noqa: PLC0415  # only these two verbs need it

    return {"training": DaemonConfig}


def _leaves(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and key != "aliases":
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in value.items())
        else:
            yield key, value


def _masked(value: Any) -> Any:
    return _PASSWORD.sub(r"\1:***@", value) if isinstance(value, str) else value
