"""Decodes YAML into typed values; every problem is told with its place."""

import itertools
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from thirdshift.config.checks import Refused, suggestion
from thirdshift.core.errors import ConfigurationError

_SIZE_LIMIT_BYTES = 1_000_000
_MOST_FREE_NODES = 10_000
_DEEPEST = 50


def compose(path: Path) -> yaml.Node | None:
    """Parse *path* into nodes, which know their place; ``None`` when the file does not exist or is empty."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read ({error.strerror})"]) from error
    if len(data) > _SIZE_LIMIT_BYTES:
        raise ConfigurationError([f"{path}: {len(data):,} bytes; a configuration has at most {_SIZE_LIMIT_BYTES:,}"])
    try:
        return _named(path, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigurationError([f"{place}: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise ConfigurationError([f"{path}: {error}"]) from error


def _named(path: Path, text: str) -> yaml.Node | None:
    """Parse *text* into nodes whose marks name *path*."""
    loader = yaml.SafeLoader(text)
    loader.name = str(path)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class Reader:
    """Decodes nodes into values and collects problems instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._free_nodes = 0

    def child(self, node: yaml.Node, key: str) -> yaml.Node | None:
        """Return the node under *key*, ``None`` when there is none."""
        found = [(name, value) for name, value in self._entries(node, "") if name.value == key]
        for name, _ in found[1:]:
            self._problem(name, f"the key {key} stands here twice")
        return found[0][1] if found else None

    def read_dataclass(self, target: type[Any], node: yaml.Node, name: str, extra: tuple[str, ...] = ()) -> Any:
        """Return *target* made from a mapping; keys in *extra* belong to somebody else."""
        hints = get_type_hints(target)
        known = [each.name for each in fields(target)]
        values: dict[str, Any] = {}
        seen: set[str] = set()
        for key, value in self._entries(node, name):
            word = key.value if isinstance(key, yaml.ScalarNode) else _described(key, None)
            where = f"{name}.{word}" if name else word
            if word not in known and word not in extra:
                self._problem(key, f"unknown key {where}{suggestion(word, [*known, *extra])}")
            elif word in seen:
                self._problem(key, f"the key {where} stands here twice")
            elif word in known:
                before = len(self.problems)
                read = self._read(hints[word], value, where)
                if len(self.problems) == before:  # else its default stands in, so that the owner checks the rest
                    values[word] = read
            seen.add(word)
        return self._make(target, values, node)

    def _read(self, kind: Any, node: yaml.Node, where: str) -> Any:
        if is_dataclass(kind) and isinstance(kind, type):
            return self.read_dataclass(kind, node, where)
        if kind is Any:
            return self._read_free(node, where, 0)
        if get_origin(kind) in (Union, types.UnionType):
            choices = [choice for choice in get_args(kind) if choice is not type(None)]
            return None if _is_null(node) else self._read(choices[0], node, where)
        if get_origin(kind) is tuple:
            return self._read_tuple(get_args(kind)[0], node, where)
        if get_origin(kind) is Mapping:
            return self._read_mapping(get_args(kind)[1], node, where)
        return self._read_scalar(kind, node, where)

    def _read_tuple(self, kind: Any, node: yaml.Node, where: str) -> tuple[Any, ...]:
        if not isinstance(node, yaml.SequenceNode):
            self._problem(node, f"{where} must be a list")
            return ()
        return tuple(self._read(kind, item, f"{where}[{number}]") for number, item in enumerate(node.value))

    def _read_mapping(self, kind: Any, node: yaml.Node, where: str) -> dict[str, Any]:
        """Return keys of the user's own choice with their values."""
        found: dict[str, Any] = {}
        for key, value in self._entries(node, where):
            word = self._read_scalar(str, key, f"a key of {where}")
            if word in found:
                self._problem(key, f"the key {where}.{word} stands here twice")
            found[word] = self._read(kind, value, f"{where}.{word}")
        return found

    def _read_free(self, node: yaml.Node, where: str, depth: int) -> Any:
        """Return a value of the user's own choice, of a size that no alias can blow up."""
        self._free_nodes += 1
        if self._free_nodes > _MOST_FREE_NODES or depth > _DEEPEST:
            if self._free_nodes <= _MOST_FREE_NODES + 1:
                self._problem(node, f"{where}: more than {_MOST_FREE_NODES:,} values, or deeper than {_DEEPEST} levels")
            self._free_nodes = max(self._free_nodes, _MOST_FREE_NODES + 1)
            return None
        if isinstance(node, yaml.SequenceNode):
            return [self._read_free(item, where, depth + 1) for item in self._affordable(node.value)]
        if isinstance(node, yaml.MappingNode):
            pairs = self._affordable(node.value)
            return {self._read_scalar(str, key, f"a key of {where}"): self._read_free(value, where, depth + 1)
                    for key, value in pairs}  # fmt: skip
        try:
            return _scalar(node)
        except (yaml.YAMLError, ValueError, ArithmeticError):
            self._problem(node, f"{where} holds {_described(node, None)}, which is no value")
            return None

    def _affordable(self, nodes: list[Any]) -> Iterator[Any]:
        """Yield *nodes* until too many values were read in all."""
        return itertools.takewhile(lambda _: self._free_nodes <= _MOST_FREE_NODES, nodes)

    def _read_scalar(self, kind: type[Any], node: yaml.Node, where: str) -> Any:
        try:
            value = _scalar(node)
            if kind is float and type(value) is int:
                value = float(value)
        except (yaml.YAMLError, ValueError, ArithmeticError):  # a tag of its own, or a date that does not exist
            value = None
        if type(value) is not kind:
            self._problem(node, f"{where} must be {_WORDS[kind]}, not {_described(node, value)}")
        return value

    def _entries(self, node: yaml.Node, name: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        if isinstance(node, yaml.MappingNode):
            yield from node.value
        elif not _is_null(node):
            self._problem(node, f"{name or 'the file'} must hold keys with values")

    def _make(self, target: type[Any], values: Mapping[str, Any], node: yaml.Node) -> Any:
        try:
            return target(**values)
        except ValueError as error:  # a check of the section's owner
            for problem in error.problems if isinstance(error, Refused) else [str(error)]:
                self._problem(_culprit(node, problem), problem)
            return None

    def _problem(self, node: yaml.Node, text: str) -> None:
        self.problems.append(f"{place_of(node)}: {text}")


def place_of(node: yaml.Node) -> str:
    """Return where a value comes from: ``file:line:column``, or the variable's name."""
    mark = node.start_mark
    return str(mark.name) if is_variable(node) else f"{mark.name}:{mark.line + 1}:{mark.column + 1}"


def is_variable(node: yaml.Node) -> bool:
    """Return whether the value was set by an environment variable: these have no line."""
    return bool(node.start_mark.line < 0)


def _culprit(node: yaml.Node, problem: str) -> yaml.Node:
    """Return the key that an owner's check complains about, or the variable that has set it; else the section."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if problem.startswith(f"{key.value} is "):
                culprit: yaml.Node = value if is_variable(value) else key
                return culprit
    return node


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _scalar(node: yaml.Node) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        return node
    return yaml.constructor.SafeConstructor().construct_object(node)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _described(node: yaml.Node, value: Any) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value if value is None and not _is_null(node) else value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "keys with values"
