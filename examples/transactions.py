"""A row and a task in one transaction, and an effect exactly once: the application's table lies in the tasks' file."""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from thirdshift import BackgroundTaskManager, TaskHandle, current_task

TABLE = "CREATE TABLE IF NOT EXISTS parcel (id INTEGER PRIMARY KEY, shipped INTEGER NOT NULL DEFAULT 0)"


def order(manager: BackgroundTaskManager, connection: sqlite3.Connection, parcel: int) -> TaskHandle[str]:
    """Store the parcel and the task that ships it: both, or neither."""
    with manager.transaction(connection) as tx:
        connection.execute("INSERT INTO parcel (id) VALUES (?)", [parcel])
        return tx.submit(ship, manager.database, parcel)


def ship(database: str, parcel: int) -> str:
    """Ship once, however often the process is killed: the row changes in the transaction that completes the task."""
    with closing(sqlite3.connect(database)) as connection, current_task().commit(connection) as done:
        connection.execute("UPDATE parcel SET shipped = shipped + 1 WHERE id = ?", [parcel])
        done.result = f"parcel {parcel} is on its way"
    return str(done.result)


def main() -> None:
    database = Path(tempfile.mkdtemp()) / "shop.db"
    with BackgroundTaskManager(database=database) as manager, closing(sqlite3.connect(database)) as connection:
        connection.execute(TABLE)
        handles = [order(manager, connection, parcel) for parcel in range(3)]
        for handle in handles:
            print(handle.result(timeout=10), handle.status.value)
        print(connection.execute("SELECT id, shipped FROM parcel").fetchall())


if __name__ == "__main__":
    main()
