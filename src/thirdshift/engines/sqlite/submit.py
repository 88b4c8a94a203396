"""What a submitter writes: each function runs inside one transaction, of the :class:`Writer` or of the application."""

from collections.abc import Collection, Sequence

from thirdshift.core.errors import QueueFull
from thirdshift.engines.sqlite.links import Statements
from thirdshift.engines.sqlite.queries import QUERY, in_chunks
from thirdshift.engines.sqlite.rows import LIMIT_KEY, Row


def insert(connection: Statements, rows: Sequence[Row], queue_size: int | None, new_queues: Collection[str]) -> None:
    """Store the tasks of *rows*, all or none."""
    prepare(connection, queue_size, len(rows), new_queues)
    for query, parameters in in_chunks("submit", rows):
        connection.execute(query, parameters)
    enter_lines(connection, rows)


def enter_lines(connection: Statements, rows: Sequence[Row]) -> None:
    """Let those of the new *rows* that have a limit key take their places among its tasks."""
    for row in rows:
        if row[LIMIT_KEY] is not None:
            connection.execute(QUERY["enter_line"], (row[0],))


def prepare(connection: Statements, queue_size: int | None, more: int, new_queues: Collection[str]) -> None:
    """Demand room for *more* tasks, and make *new_queues* known. Raises ``QueueFull``."""
    if queue_size is not None:
        demand_room(connection, queue_size, more)
    for name in new_queues:
        connection.execute(QUERY["know_queue"], (name,))


def demand_room(connection: Statements, queue_size: int, more: int) -> None:
    """Raise ``QueueFull`` when the tasks that are queued, and *more*, are too many."""
    ((queued,),) = connection.execute(QUERY["count_queued"], (queue_size + 1,)).fetchall()
    if queued + more > queue_size:
        raise QueueFull(queue_size, 0.0)
