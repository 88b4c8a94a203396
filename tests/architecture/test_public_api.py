"""The public API: a sorted list, each name found where the table says, and nothing heavy loaded to get there."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import thirdshift

HEAVY = {
    "asyncio",
    "celery",
    "click",
    "concurrent.futures.process",
    "django",
    "fastapi",
    "flask",
    "multiprocessing",
    "numpy",
    "pydantic",
    "pytest",
    "rich",
    "sqlite3",
    "torch",
    "transformers",
    "yaml",
}


def loaded_by(code: str) -> set[str]:
    """The modules of a fresh interpreter that has run *code*."""
    command = [sys.executable, "-I", "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_all_is_the_table_sorted() -> None:
    """One list, spelled out for tools, equal to the one that finds the names."""
    assert thirdshift.__all__ == sorted(thirdshift.__all__)
    assert thirdshift.__all__ == sorted(thirdshift._HOME)


def test_every_public_name_imports() -> None:
    """From where the table says, and is listed by dir()."""
    for name, home in thirdshift._HOME.items():
        found = getattr(importlib.import_module(f"thirdshift.{home}"), name)
        assert getattr(thirdshift, name) is found
        assert getattr(found, "__module__", "thirdshift").startswith("thirdshift")
    assert set(thirdshift.__all__) <= set(dir(thirdshift))


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING are the table."""
    tree = ast.parse(Path(thirdshift.__file__).read_text())
    seen = {
        alias.name: f"{node.module}".removeprefix("thirdshift.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("thirdshift.")
        for alias in node.names
    }
    assert seen == thirdshift._HOME


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As with any module."""
    with pytest.raises(AttributeError, match="module 'thirdshift' has no attribute 'no_such_name'"):
        _ = thirdshift.no_such_name


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Not even what it needs itself; everything comes when it is first used."""
    loaded = loaded_by("import thirdshift")
    assert loaded & HEAVY == set()
    assert {name for name in loaded if name.startswith("thirdshift.")} == set()


def test_declaring_a_task_loads_nothing_heavy() -> None:
    """A module of task functions is imported by every child process."""
    loaded = loaded_by("from thirdshift import task, current_task, Retry, Snooze, Cancel, TaskPriority, TaskFailed")
    assert loaded & (HEAVY - {"asyncio"}) == set()


def test_submitting_loads_no_application_and_no_test_tool() -> None:
    """The manager needs SQLite and YAML, and nothing of the terminal, the web or torch."""
    loaded = loaded_by("from thirdshift import BackgroundTaskManager")
    assert loaded & (HEAVY - {"sqlite3", "yaml"}) == set()
    assert not {name for name in loaded if name.startswith(("thirdshift.apps", "thirdshift.testing", "thirdshift.cli"))}


def test_a_child_process_loads_no_store() -> None:
    """It talks to its worker only."""
    loaded = loaded_by("import thirdshift.runtime.pools.child")
    assert loaded & (HEAVY - {"asyncio"}) == set()
