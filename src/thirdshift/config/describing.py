"""What may stand in the configuration, from the typed values that their owners declare: a file to begin with, a schema.

Keys, types and defaults are those of the dataclasses, and what is said of them is their docstrings.
"""

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from thirdshift.config.sections import BackgroundTaskConfig

_WIDTH = 100
_MARKUP = re.compile(r":[a-z]+:`([^`]+)`|``([^`]+)``")
_JSON_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}
_HEAD = """\
# The configuration of Thirdshift: every section, and every key with its default.
#
# A line that begins with # and a key sets nothing: take the # away and change the value. What is not set has its
# default, also in a later version in which that is another one.
# `thirdshift config check` tells all mistakes, `thirdshift config show` what holds and where it comes from.
"""


def template(applications: Mapping[str, type[Any]]) -> str:
    """Return a configuration file in which nothing is set, with all keys of ours and of the *applications*' sections.

    It says what may be set and pins nothing: defaults stand there as comments.
    """
    return "\n".join([_HEAD, *_keys(BackgroundTaskConfig, ""), *_application_keys(applications)])


def schema(applications: Mapping[str, type[Any]]) -> dict[str, Any]:
    """Return the JSON schema of the configuration file, for editors that complete and check YAML."""
    found = _object(BackgroundTaskConfig)
    for name, section in applications.items():
        found["properties"][name] = {**_object(section), "description": _plain(section.__doc__)}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "thirdshift.yaml", **found}


# The file


def _application_keys(applications: Mapping[str, type[Any]]) -> Iterator[str]:
    for name, section in applications.items():
        yield from _section(name, section, section.__doc__, "")


def _keys(owner: type[Any], indent: str) -> Iterator[str]:
    hints, said = get_type_hints(owner), _docstrings(owner)
    for field in fields(owner):
        if is_dataclass(hints[field.name]):
            yield from _section(field.name, hints[field.name], said.get(field.name), indent)
        else:
            yield from _comment(f"{said.get(field.name)}{_inner_keys(hints[field.name])}", indent)
            yield f"{indent}#{field.name}: {_yaml(_default(field))}"
            yield ""


def _section(name: str, owner: type[Any], said: str | None, indent: str) -> Iterator[str]:
    yield from _comment(said, indent)
    yield f"{indent}{name}:"
    yield from _keys(owner, indent + "  ")


def _inner_keys(kind: Any) -> str:
    """Return what stands below each key of the user's own choice, when that is a section."""
    inner = get_args(kind)[1] if get_origin(kind) is Mapping else None
    return f" Below each: {', '.join(field.name for field in fields(inner))}." if is_dataclass(inner) else ""


def _comment(text: str | None, indent: str) -> Iterator[str]:
    return (f"{indent}# {line}" for line in textwrap.wrap(_plain(text), _WIDTH, break_on_hyphens=False))


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


# The schema


def _object(owner: type[Any]) -> dict[str, Any]:
    """Return the schema of a section; one in which nothing stands is empty, or ``null`` for YAML."""
    hints, said = get_type_hints(owner), _docstrings(owner)
    properties = {
        field.name: {**_kind(hints[field.name], field), "description": _plain(said.get(field.name))}
        for field in fields(owner)
    }
    return {"type": ["object", "null"], "properties": properties, "additionalProperties": False}


def _kind(kind: Any, field: Field[Any]) -> dict[str, Any]:
    found = _type(kind)
    if "properties" in found:
        return found
    value = _default(field)
    found["default"] = list(value) if isinstance(value, tuple) else value
    return {**found, "enum": list(field.metadata["choices"])} if "choices" in field.metadata else found


def _type(kind: Any) -> dict[str, Any]:
    if kind is Any:
        return {}
    if is_dataclass(kind) and isinstance(kind, type):
        return _object(kind)
    if get_origin(kind) in (Union, types.UnionType):
        (choice,) = (choice for choice in get_args(kind) if choice is not type(None))
        return {"type": [_JSON_TYPES[choice], "null"]}
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _type(get_args(kind)[0])}
    if get_origin(kind) is Mapping:
        return {"type": ["object", "null"], "additionalProperties": _type(get_args(kind)[1])}
    return {"type": _JSON_TYPES[kind]}


# What owners declare


def _default(field: Field[Any]) -> Any:
    """Return what holds when the key is not there: every key has a default."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _plain(text: str | None) -> str:
    """Return a docstring as one line without its markup."""
    return _MARKUP.sub(lambda found: found[1] or found[2], " ".join((text or "").split()))


def _docstrings(owner: type[Any]) -> Mapping[str, str]:
    """Return what is said below each field of *owner*, which only the source has; those of its bases first."""
    found: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if is_dataclass(base):
            found |= _docstrings_of(base)
    return found


def _docstrings_of(owner: type[Any]) -> Iterator[tuple[str, str]]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    except OSError:  # installed without its source: keys and defaults are there all the same
        return
    assert isinstance(tree, ast.ClassDef)
    for pair in zip(tree.body, tree.body[1:], strict=False):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, text
