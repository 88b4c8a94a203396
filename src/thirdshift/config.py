"""The configuration file of a workspace: one YAML file, decoded into the typed values that its owners declare.

All problems of a file are reported at once, each with file, line and column, and with what would be allowed.
"""

import difflib
import math
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from thirdshift.core.errors import ConfigurationError
from thirdshift.core.pruning import PruningConfig
from thirdshift.core.recycling import RecyclingConfig

T = TypeVar("T")

FILE_NAME = "thirdshift.yaml"
DATABASE_NAME = "thirdshift.db"
WORKSPACE_VARIABLE = "THIRDSHIFT_WORKSPACE"
_APPLICATION_SECTIONS = ("training",)
_SIZE_LIMIT_BYTES = 1_000_000
_WORKER_TYPES = ("threaded", "process", "async", "celery")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, kw_only=True)
class ThreadedWorkerConfig:
    """The worker of :func:`thirdshift.get_task_manager`."""

    max_workers: int = 4
    """Tasks that run at once in threads, and as many in child processes."""

    queue_size: int | None = None
    """Most tasks that may wait to run; ``null``: no limit."""

    queue_wait_seconds: float = 0.0
    """How long a submit to a full queue waits for room before it fails."""

    def __post_init__(self) -> None:
        for name, value in (("max_workers", self.max_workers), ("queue_size", self.queue_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        refuse(less_than(0, queue_wait_seconds=self.queue_wait_seconds))


@dataclass(frozen=True, kw_only=True)
class AsyncWorkerConfig:
    """The event loop of the same worker."""

    max_workers: int = 100
    """Coroutines that run at once."""

    def __post_init__(self) -> None:
        refuse(less_than(1, max_workers=self.max_workers))


@dataclass(frozen=True, kw_only=True)
class BackgroundTaskConfig:
    """The top level of the configuration file; applications own further sections."""

    worker_type: str = "threaded"
    """``threaded`` or ``process``: where functions run that declare no pool. ``async``: in threads."""

    database: str | None = None
    """The database file, relative to the workspace; ``null``: ``thirdshift.db``."""

    threaded_worker: ThreadedWorkerConfig = field(default_factory=ThreadedWorkerConfig)
    """The worker's size."""

    async_worker: AsyncWorkerConfig = field(default_factory=AsyncWorkerConfig)
    """The size of its event loop."""

    pruning: PruningConfig = field(default_factory=PruningConfig)
    """How long finished tasks are kept."""

    recycling: RecyclingConfig = field(default_factory=RecyclingConfig)
    """When child processes are replaced by fresh ones."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    """Functions and classes that were moved or renamed: ``old.module:send: new.module:send``."""

    unknown_after_hours: float = 24.0
    """A task fails when no worker could find its function for so long."""

    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""

    shutdown_timeout_seconds: float = 30.0
    """How long a stop waits for the work in hand."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("worker_type", self.worker_type, _WORKER_TYPES),
            ("log_level", self.log_level, _LOG_LEVELS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it may be {', '.join(allowed)}{_suggestion(value, [*allowed])}")
        if not 0 <= self.shutdown_timeout_seconds < math.inf:
            raise ValueError(f"shutdown_timeout_seconds is {self.shutdown_timeout_seconds}; it must be 0 or more")
        refuse(less_than(0, unknown_after_hours=self.unknown_after_hours))

    @property
    def pools(self) -> Mapping[str, int]:
        """How many tasks run at once in each pool, as the manager's argument ``pools``."""
        workers = self.threaded_worker.max_workers
        return {"thread": workers, "process": workers, "async": self.async_worker.max_workers}


def find_workspace() -> Path:
    """Return the workspace: the folder that ``THIRDSHIFT_WORKSPACE`` names, or the current one."""
    return Path(os.environ.get(WORKSPACE_VARIABLE) or ".").absolute()


def database_of(workspace: Path) -> Path:
    """Return the workspace's database file; raises :class:`ConfigurationError`."""
    return workspace / (load_settings(workspace).database or DATABASE_NAME)


def load_settings(workspace: Path) -> BackgroundTaskConfig:
    """Return the top level of the workspace's file, or the defaults when there is none."""
    return _load(workspace / FILE_NAME, BackgroundTaskConfig, ())


def load_section(workspace: Path, name: str, section: type[T]) -> T:
    """Return the application section *name* of the workspace's file as *section*, defaults where it says nothing.

    Raises :class:`ConfigurationError` listing every problem of the section.
    """
    return _load(workspace / FILE_NAME, section, (name,))


# For the owners of sections, in their ``__post_init__``: a ValueError is reported with file, line and column.


def refuse(*problems: list[str]) -> None:
    """Raise :class:`ValueError` with all *problems*, if there are any."""
    if any(problems):
        raise ValueError("; ".join(problem for group in problems for problem in group))


def less_than(least: float, **values: float) -> list[str]:
    """Return a problem for each of *values* that is less than *least*, or no finite number."""
    wrong = {name: value for name, value in values.items() if not least <= value < math.inf}
    return [f"{name} is {value:g}; it must be {least:g} or more" for name, value in wrong.items()]


def none_of(name: str, value: str, choices: Sequence[str]) -> list[str]:
    """Return a problem when *value* is none of *choices*."""
    return [] if value in choices else [f"{name} is {value!r}; it may be {' or '.join(map(repr, choices))}"]


def _load(path: Path, target: type[T], keys: tuple[str, ...]) -> T:
    root = _compose(path)
    reader = _Reader(path)
    node = root
    for key in keys:
        node = None if node is None else reader.child(node, key)
    extra = () if keys else _APPLICATION_SECTIONS
    value: Any = target() if node is None else reader.read_dataclass(target, node, ".".join(keys), extra)
    if reader.problems:
        raise ConfigurationError(reader.problems)
    result: T = value
    return result


def _compose(path: Path) -> yaml.Node | None:
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
        return yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigurationError([f"{place}: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise ConfigurationError([f"{path}: {error}"]) from error


class _Reader:
    """Decodes nodes into values and collects problems instead of stopping at the first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.problems: list[str] = []

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
                self._problem(key, f"unknown key {where}{_suggestion(word, [*known, *extra])}")
            elif word in seen:
                self._problem(key, f"the key {where} stands here twice")
            elif word in known:
                values[word] = self._read(hints[word], value, where)
            seen.add(word)
        return None if self.problems else self._make(target, values, node)

    def _read(self, kind: Any, node: yaml.Node, where: str) -> Any:
        if is_dataclass(kind) and isinstance(kind, type):
            return self.read_dataclass(kind, node, where)
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
            self._problem(node, str(error))
            return None

    def _problem(self, node: yaml.Node, text: str) -> None:
        mark = node.start_mark
        self.problems.append(f"{self._path}:{mark.line + 1}:{mark.column + 1}: {text}")


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


def _suggestion(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
