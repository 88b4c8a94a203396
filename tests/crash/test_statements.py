"""A process that is killed at any SQL statement loses nothing it acknowledged and leaves nothing half-done."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from thirdshift.testing.torture.harness import first_violation, folder_in_memory
from thirdshift.testing.torture.statement_victim import FILE_NAME, NEVER
from thirdshift.testing.torture.statements import (
    NEWEST,
    Deaths,
    Statements,
    Victims,
    check_migration,
    make_file,
    state_of,
)

PARTS = 2
"""Each worker of the test runner makes its own operations to kill, so few of them."""
EVERY = int(os.environ.get("THIRDSHIFT_EVERY", "3"))
"""Which crash points are made: each third one, or with 1 (`make torture`) all of them."""


@pytest.fixture(scope="module")
def deaths() -> Iterator[Deaths]:
    with folder_in_memory() as folder, Statements().open(folder, folder / "kept", seed=1) as deaths:
        yield deaths


@pytest.mark.parametrize("part", range(PARTS))
def test_a_kill_at_any_statement_loses_nothing(deaths: Deaths, part: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Every statement of submit, claim, settle, retry, cancel, rescue, pause, delete, and of every migration."""
    numbers = range(part * EVERY, deaths.cases, PARTS * EVERY)
    found = [violation for number in numbers for violation in deaths.judge(number).violations]
    with capsys.disabled():
        steps = len(deaths.states) - 1
        of = f"{len(numbers)} of {deaths.cases}"
        sys.stdout.write(f"\ncrash points: {of} at {steps} operations and {NEWEST} migrations\n")
    assert found == []
    assert deaths.cases > 1_500


@pytest.mark.parametrize("fault", Statements.controls)
def test_the_harness_catches_a_planted_fault(fault: str) -> None:
    """Negative control: who acknowledges before the commit, settles what another holds, or migrates piece by piece."""
    assert first_violation(Statements(), fault, seed=1) is not None


@pytest.mark.parametrize("version", range(NEWEST))
def test_a_migration_keeps_all_tasks_and_leaves_the_old_schema_or_the_new_one(tmp_path: Path, version: int) -> None:
    """From every earlier version, and from nothing; some of the kills leave the one, some the other."""
    old = tmp_path / "old"
    old.mkdir()
    make_file(old / FILE_NAME, version)
    with Victims(tmp_path) as victims:
        new = victims.kill_at(NEVER, source=old)
        assert new.statements is not None
        if version:
            assert state_of(new.folder / FILE_NAME) == state_of(old / FILE_NAME)
        ends = [victims.kill_at(statement, source=old).folder for statement in (1, new.statements)]
        assert [check_migration(end, old / FILE_NAME, new.folder / FILE_NAME) for end in ends] == [False, True]
