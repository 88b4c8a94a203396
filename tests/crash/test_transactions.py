"""kill -9 of applications at every statement of a transaction: row and task, effect and completion, stand together."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from thirdshift.core import codec

CHILD = Path(__file__).with_name("transaction_child.py")
FILE_NAME = "shop.db"
ORDERS = 2
KILLS = 5 * int(os.environ.get("THIRDSHIFT_KILLS") or 4)
SEED = 20_260_102
MOST_STATEMENTS = 60
"""The last statement at which a worker may be killed: that of its fifth task or so."""


class Victims:
    """The process that forks one victim for each case."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, step: str, folder: Path, die_at: int = 0, *, kind: str = "sqlite3", fault: str | None = None
    ) -> tuple[list[str], int | None]:
        """Returns what was acknowledged, and the number of statements if nobody died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        case = {"step": step, "folder": str(folder), "die_at": die_at, "kind": kind, "fault": fault}
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer.get("acknowledged", []), answer.get("statements")

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))

    def close(self) -> None:
        self._process.communicate(timeout=60)


pytestmark = pytest.mark.timeout(max(600, 4 * KILLS))


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    """In memory where that is possible: what a kill leaves does not depend on the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        victims = Victims(Path(folder))
        yield victims
        victims.close()


def parcels_of(folder: Path) -> dict[int, int]:
    """How often each parcel was shipped."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dict(connection.execute("SELECT id, shipped FROM parcel").fetchall())


def tasks_of(folder: Path) -> dict[int, str]:
    """The status of the task of each parcel."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        rows = connection.execute("SELECT arguments, status FROM task").fetchall()
    return {codec.decode_arguments(arguments)[0][1]: status for arguments, status in rows}


def check_orders(folder: Path, acknowledged: list[str]) -> None:
    """Every parcel has its task, every task its parcel, and what was acknowledged is there."""
    parcels, tasks = set(parcels_of(folder)), set(tasks_of(folder))
    assert parcels == tasks, "a row without its task, or a task without its row"
    assert {int(parcel) for parcel in acknowledged} <= parcels, "what was acknowledged is lost"


@pytest.mark.parametrize("kind", ["sqlite3", "sqlalchemy"])
def test_a_kill_at_any_statement_leaves_row_and_task_or_neither(
    victims: Victims, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the example's application, whatever it was doing."""
    acknowledged, statements = victims.run("order", victims.new_folder(), kind=kind)
    assert statements is not None
    assert len(acknowledged) == ORDERS
    for statement in range(1, statements + 1):
        folder = victims.new_folder()
        acknowledged, survived = victims.run("order", folder, statement, kind=kind)
        assert survived is None
        check_orders(folder, acknowledged)
    with capsys.disabled():
        sys.stdout.write(f"\norders with {kind}: crash points: {statements}, 0 violations\n")


def test_the_harness_catches_two_transactions(victims: Victims) -> None:
    """Negative control: the same application without ``manager.transaction``."""
    fault = "commits twice"
    _, statements = victims.run("order", victims.new_folder(), fault=fault)
    assert statements is not None
    caught = 0
    for statement in range(1, statements + 1):
        folder = victims.new_folder()
        acknowledged, _ = victims.run("order", folder, statement, fault=fault)
        try:
            check_orders(folder, acknowledged)
        except AssertionError:
            caught += 1
    assert caught


@pytest.mark.parametrize("kind", ["sqlite3", "sqlalchemy"])
def test_a_kill_at_any_statement_of_a_task_leaves_effect_and_completion_or_neither(
    victims: Victims, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Afterwards another worker ends what is left, and every parcel was shipped once."""
    ended, statements = victims.run("ship", victims.new_folder(), kind=kind)
    assert statements is not None
    assert len(ended) == ORDERS
    for statement in range(1, statements + 1):
        folder = victims.new_folder()
        victims.run("ship", folder, statement, kind=kind)
        parcels, tasks = parcels_of(folder), tasks_of(folder)
        for parcel, shipped in parcels.items():
            assert shipped == (tasks[parcel] == "completed"), "an effect without its completion, or the reverse"
        victims.run("ship", folder, kind=kind)
        assert parcels_of(folder) == dict.fromkeys(range(ORDERS), 1)
        assert set(tasks_of(folder).values()) == {"completed"}
    with capsys.disabled():
        sys.stdout.write(f"\ntasks with {kind}: crash points: {statements}, 0 violations\n")


def kill_workers(victims: Victims, *, fault: str | None = None) -> tuple[dict[int, int], int]:
    """Kill worker after worker at seeded statements; returns how often each parcel was shipped, and the kills."""
    draw = random.Random(SEED)
    folder = victims.new_folder()
    victims.run("submit", folder, 4 * KILLS, fault=fault)
    kills = 0
    while kills < KILLS:
        _, survived = victims.run("work", folder, draw.randint(5, MOST_STATEMENTS))
        if survived is not None:
            break
        kills += 1
    victims.run("work", folder)
    assert set(tasks_of(folder).values()) == {"completed"}
    return parcels_of(folder), kills


def test_an_effect_happens_once_however_often_workers_are_killed(
    victims: Victims, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example's task, in the threads of real workers."""
    parcels, kills = kill_workers(victims)
    assert kills >= KILLS // 2
    assert set(parcels.values()) == {1}, "an effect was lost or doubled"
    with capsys.disabled():
        sys.stdout.write(f"\nkills: {kills} over {len(parcels)} tasks with an effect each, 0 lost, 0 doubled\n")


def test_without_commit_an_effect_is_doubled(victims: Victims) -> None:
    """Negative control: the same kills, the effect in a transaction of its own."""
    parcels, _ = kill_workers(victims, fault="commits by itself")
    assert max(parcels.values()) > 1
    assert min(parcels.values()) == 1, "nothing is lost all the same"
