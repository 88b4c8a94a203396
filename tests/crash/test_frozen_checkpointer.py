"""A checkpoint that is stopped at any instruction harms nothing, on SQLite versions with the WAL-reset fault too."""

import importlib.util
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    """Load a module that stands beside this one and is a program of its own."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


freezer = _load("freezer")

FREEZES = 300
"""The default settings lose something within the first few dozen."""
LIMIT_S = 90.0

pytestmark = [pytest.mark.alone, pytest.mark.skipif(freezer.why_not() is not None, reason=str(freezer.why_not()))]


@pytest.fixture
def folder() -> Iterator[Path]:
    with freezer.folder_in_memory() as folder:
        yield folder


@pytest.mark.skipif(freezer.is_fixed(), reason=f"SQLite {sqlite3.sqlite_version} does not have the WAL-reset fault")
@pytest.mark.parametrize("rule", ["default", "unlocked"])
def test_without_the_write_lock_a_frozen_checkpoint_destroys_what_was_acknowledged(
    rule: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Default settings, and our own checkpoints without their lock: the harness sees the fault that it is for."""
    outcome = freezer.run(rule, folder, freezes=FREEZES, seed=1, limit_s=LIMIT_S)
    with capsys.disabled():
        sys.stdout.write(f"\n{outcome}\n")
    assert outcome.damage is not None


def test_our_checkpoints_may_be_frozen_anywhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same load and as many freezes: the file is sound and holds every acknowledged task."""
    outcome = freezer.run("ours", folder, freezes=FREEZES, seed=1, limit_s=LIMIT_S)
    with capsys.disabled():
        sys.stdout.write(f"\n{outcome}\n")
    assert outcome.damage is None
    assert outcome.freezes == FREEZES
    assert 0 < outcome.overtaken < FREEZES  # frozen both with and without the write lock
