"""Finds the configuration file and loads it: file below environment, all problems in one error."""

import os
from pathlib import Path
from typing import Any, TypeVar

import yaml

from thirdshift.config.environment import only_environment, overlaid
from thirdshift.config.reader import Reader, compose, place_of
from thirdshift.config.sections import BackgroundTaskConfig
from thirdshift.core.errors import ConfigurationError

T = TypeVar("T")

FILE_NAME = "thirdshift.yaml"
DATABASE_NAME = "thirdshift.db"
WORKSPACE_VARIABLE = "THIRDSHIFT_WORKSPACE"
FILE_VARIABLE = "THIRDSHIFT_CONFIG"
_APPLICATION_SECTIONS = ("training",)


def find_workspace() -> Path:
    """Return the workspace: the folder that ``THIRDSHIFT_WORKSPACE`` names, or the current one."""
    return Path(os.environ.get(WORKSPACE_VARIABLE) or ".").absolute()


def find_file(workspace: Path) -> Path | None:
    """Return the first file there is of the usual places; one that ``THIRDSHIFT_CONFIG`` names has to exist."""
    if named := os.environ.get(FILE_VARIABLE):
        path = Path(named).absolute()
        if not path.exists():
            raise ConfigurationError([f"{FILE_VARIABLE}: there is no file {path}"])
        return path
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    places = (
        workspace / FILE_NAME,
        workspace / "omni_dev_bg_config.yaml",
        home / "thirdshift" / "config.yaml",
        Path("/etc/thirdshift/config.yaml"),
    )
    return next((place for place in places if place.exists()), None)


def database_of(workspace: Path) -> Path:
    """Return the workspace's database file; raises :class:`ConfigurationError`."""
    return workspace / (load_settings(workspace).database or DATABASE_NAME)


def auto_load_config() -> BackgroundTaskConfig:
    """Return the configuration of the usual places, environment over file; raises :class:`ConfigurationError`."""
    return load_settings(find_workspace())


def load_config(source: str | Path) -> BackgroundTaskConfig:
    """Return the configuration of the file *source*, environment over file; ``"env"``: of the environment alone."""
    if source == "env":
        return _load(None, BackgroundTaskConfig, (), [])
    path = Path(source).absolute()
    if not path.exists():
        raise ConfigurationError([f"{path}: there is no such file"])
    return _load(path, BackgroundTaskConfig, (), [])


def load_settings(workspace: Path) -> BackgroundTaskConfig:
    """Return the top level of the workspace's configuration, defaults where nothing is said."""
    problems: list[str] = []
    return _load(_file(workspace, problems), BackgroundTaskConfig, (), problems)


def load_section(workspace: Path, name: str, section: type[T]) -> T:
    """Return the application section *name* of the workspace's file as *section*, defaults where it says nothing.

    Raises :class:`ConfigurationError` listing every problem of the section.
    """
    problems: list[str] = []
    return _load(_file(workspace, problems), section, (name,), problems)


def origins_of(workspace: Path) -> dict[str, str]:
    """Return where each value that is no default comes from: dotted key to file:line:column or variable."""
    path = _file(workspace, [])
    root = overlaid(compose(path) if path else None)
    found: dict[str, str] = {}
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        found[key.value] = place_of(value)
        for inner, leaf in value.value if isinstance(value, yaml.MappingNode) else ():
            found[f"{key.value}.{inner.value}"] = place_of(leaf)
    return found


def _file(workspace: Path, problems: list[str]) -> Path | None:
    if only_environment(problems):
        return None
    try:
        return find_file(workspace)
    except ConfigurationError as error:
        problems += error.problems
        return None


def _load(path: Path | None, target: type[T], keys: tuple[str, ...], before: list[str]) -> T:
    """Return *target* from the file and, at the top level, from the environment over it."""
    reader = Reader()
    root: yaml.Node | None = None
    problems = list(before)
    try:
        root = compose(path) if path else None
    except ConfigurationError as error:
        problems += error.problems
    node = root if keys else overlaid(root)
    for key in keys:
        node = None if node is None else reader.child(node, key)
    extra = () if keys else _APPLICATION_SECTIONS
    value: Any = target() if node is None else reader.read_dataclass(target, node, ".".join(keys), extra)
    problems += reader.problems
    if problems:
        raise ConfigurationError(problems)
    result: T = value
    return result
