"""The victim of the tests of transactions: forks, runs the examples' application, and kills itself at a statement.

Reads one JSON line for each case, answers with one line. It starts no thread before it forks.
"""

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import transactions
import transactions_sqlalchemy
from sqlalchemy import event
from sqlalchemy.orm import Session

from thirdshift import BackgroundTaskManager, current_task
from thirdshift.core.engine import TaskFilter
from thirdshift.core.status import TaskStatus
from thirdshift.testing import run_until_idle

FILE_NAME = "shop.db"
ORDERS = 2


class Suicide:
    """Counts statements, from any thread, and dies at one of them before it is run."""

    def __init__(self, die_at: int) -> None:
        self._die_at = die_at
        self.statements = 0

    def count(self, _statement: str) -> None:
        self.statements += 1
        if self.statements == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def count_all_connections(suicide: Suicide) -> None:
    """Let *suicide* see what every connection of this process that may write does from now on."""

    class Counted(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if "mode=ro" not in str(arguments[0]):
                self.set_trace_callback(suicide.count)

    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **options: connect(*arguments, **{"factory": Counted, **options})  # type: ignore[assignment]
    sqlite3.dbapi2.connect = sqlite3.connect  # SQLAlchemy's name for it


Acknowledge = Callable[[str], None]


def order(folder: Path, kind: str, suicide: Suicide, fault: str | None, acknowledge: Acknowledge) -> None:
    """Order parcels, as the example does."""
    with ExitStack() as stack:
        manager = stack.enter_context(BackgroundTaskManager(database=folder / FILE_NAME, start=False))
        place: Callable[[int], Any]
        if kind == "sqlite3":
            connection = stack.enter_context(closing(sqlite3.connect(manager.database)))
            connection.execute(transactions.TABLE)
            connection.set_trace_callback(suicide.count)
            place = lambda parcel: transactions.order(manager, connection, parcel)  # noqa: E731
        else:
            engine = transactions_sqlalchemy.engine_of(manager.database)
            transactions_sqlalchemy.Base.metadata.create_all(engine)
            engine.dispose()
            event.listen(engine, "connect", lambda driver, _record: driver.set_trace_callback(suicide.count))
            session = stack.enter_context(Session(engine))
            place = lambda parcel: transactions_sqlalchemy.order(manager, session, parcel)  # noqa: E731
        if fault == "commits twice":
            manager._engine._writer.connection.set_trace_callback(suicide.count)  # type: ignore[attr-defined]
            place = lambda parcel: order_carelessly(manager, connection, parcel)  # noqa: E731
        for parcel in range(ORDERS):
            place(parcel)
            acknowledge(str(parcel))


def order_carelessly(manager: BackgroundTaskManager, connection: sqlite3.Connection, parcel: int) -> None:
    """The row in one transaction, the task in another."""
    with connection:
        connection.execute("INSERT INTO parcel (id) VALUES (?)", [parcel])
    manager.submit(transactions.ship, manager.database, parcel)


def ship(folder: Path, kind: str, suicide: Suicide, _fault: str | None, acknowledge: Acknowledge) -> None:
    """Run what was ordered, in this thread; order it first in a new folder."""
    if not (folder / FILE_NAME).exists():
        order(folder, kind, Suicide(0), None, lambda _parcel: None)
    with BackgroundTaskManager(database=folder / FILE_NAME, start=False) as manager:
        count_all_connections(suicide)
        while manager.count_tasks()[TaskStatus.COMPLETED] < ORDERS:  # what a dead worker held is run the second time
            for task in run_until_idle(manager):
                acknowledge(task.id)


def work(folder: Path, _kind: str, suicide: Suicide, _fault: str | None, _acknowledge: Acknowledge) -> None:
    """Be a worker with threads until it is killed, or nothing is left."""
    count_all_connections(suicide)
    with BackgroundTaskManager(max_workers=2, pools={"process": 0}, database=folder / FILE_NAME) as manager:
        manager.wait_until_drained()
        running = TaskFilter(statuses=frozenset({TaskStatus.RUNNING}))
        while manager.find_tasks(running):  # a dead worker's
            manager.wait_until_drained()
    assert manager.failure is None


def submit_all(folder: Path, function: Callable[[str, int], Any], count: int) -> None:
    """Store *count* parcels and the tasks that ship them."""
    with (
        BackgroundTaskManager(database=folder / FILE_NAME, start=False, durability="relaxed") as manager,
        closing(sqlite3.connect(manager.database)) as connection,
    ):
        connection.execute(transactions.TABLE)
        with manager.transaction(connection) as tx:
            for parcel in range(count):
                connection.execute("INSERT INTO parcel (id) VALUES (?)", [parcel])
                tx.options(max_retries=0).submit(function, manager.database, parcel)


def ship_steadily(database: str, parcel: int) -> None:
    """Say that it comes forward, so that a parcel may be unlucky often."""
    current_task().progress()
    transactions.ship(database, parcel)


def ship_carelessly(database: str, parcel: int) -> None:
    """The planted fault: the effect in one transaction, the completion in another."""
    current_task().progress()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE parcel SET shipped = shipped + 1 WHERE id = ?", [parcel])


STEPS = {"order": order, "ship": ship, "work": work}


def one_case(case: dict[str, Any]) -> dict[str, Any]:
    """Fork a process that works until it dies; returns what it acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            suicide = Suicide(case["die_at"])
            step = STEPS[case["step"]]
            step(
                Path(case["folder"]), case["kind"], suicide, case["fault"],
                lambda said: os.write(writing, f"{said}\n".encode()),
            )  # fmt: skip
            os.write(writing, f"{suicide.statements}\n".encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as acknowledged:
        lines = acknowledged.read().decode().splitlines()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0, "the application itself failed"
    statements = None if killed else int(lines.pop())
    return {"acknowledged": lines, "statements": statements}


def main() -> None:
    for line in sys.stdin:
        case = json.loads(line)
        if case["step"] == "submit":
            child = os.fork()
            if child == 0:
                function = ship_carelessly if case["fault"] else ship_steadily
                submit_all(Path(case["folder"]), function, case["die_at"])
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            answer: dict[str, Any] = {}
        else:
            answer = one_case(case)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
