"""Tasks that wait for others: each function runs inside one transaction, of the :class:`Writer` or of the application.

The state of a dependency follows from the status of its parent, and is written in the transaction that changes that. So
nobody sees a parent that has finished beside a child that still waits for it. See docs/adr/0013.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from thirdshift.core import codec
from thirdshift.core.dependency import Dependency, DependencyState, Need
from thirdshift.core.errors import DependencyCycle, ParentNotFound, ParentsFailed, StillNeeded
from thirdshift.core.status import FINISHED, TaskStatus
from thirdshift.core.task import NewTask
from thirdshift.engines.sqlite import submit as plain
from thirdshift.engines.sqlite.links import Statements
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.engines.sqlite.rows import Row, row_of_new

_STATUS = 2
"""Where a row of the query ``submit`` has the status."""


class Ripple(NamedTuple):
    """What became of those that waited."""

    has_released: bool = False
    has_cancelled: bool = False


STILL = Ripple()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ties:
    """The dependencies of new tasks, as their parents stand."""

    parents: Sequence[tuple[int, Need, DependencyState]]
    """Number, need and state of each."""

    @property
    def is_held(self) -> bool:
        """Whether a task with them cannot run yet."""
        return any(state is not DependencyState.MET for _, _, state in self.parents)

    def held(self, row: Row) -> Row:
        """Return the parameters of the query ``submit`` for a task with them."""
        return (*row[:_STATUS], TaskStatus.WAITING.value, *row[_STATUS + 1 :]) if self.is_held else row

    def tie(self, connection: Statements, children: Sequence[str], now_us: int) -> None:
        """Give them to tasks that were stored just now; who can never run is cancelled at once."""
        rows = [(seq, need.value, state.value) for seq, need, state in self.parents]
        connection.execute(QUERY["depend"], (json.dumps(rows), json.dumps(list(children))))
        failed = [seq for seq, _, state in self.parents if state is DependencyState.FAILED]
        if failed:
            _spread(connection, failed, now_us)


def ties_of(connection: Statements, dependencies: Sequence[Dependency]) -> Ties:
    """Look at the parents of a new task. Raises :class:`ParentNotFound`."""
    wanted = json.dumps([dependency.parent for dependency in dependencies])
    ((answer,),) = connection.execute(QUERY["parents"], (wanted,)).fetchall()
    known = json.loads(bytes(answer))
    missing = [dependency.parent for dependency in dependencies if dependency.parent not in known]
    if missing:
        raise ParentNotFound(missing)
    parents = [(*known[dependency.parent], dependency.need) for dependency in dependencies]
    return Ties(parents=[(seq, need, _state(TaskStatus(status), need)) for seq, status, need in parents])


def submit(connection: Statements, tasks: Sequence[NewTask], now_us: int) -> None:
    """Store *tasks*, which share their dependencies."""
    ties = ties_of(connection, tasks[0].spec.after)
    ids = json.dumps([task.id for task in tasks])
    ((answer,),) = connection.execute(QUERY["stored_ids"], (ids,)).fetchall()
    stored = set(json.loads(bytes(answer)))  # submitted again: they stay as they are
    new = [task for task in tasks if task.id not in stored]
    plain.insert(connection, [ties.held(row_of_new(task, now_us)) for task in new], None, ())
    ties.tie(connection, [task.id for task in new], now_us)


def demand_no_cycle(connection: Statements, holder: str, ties: Ties) -> None:
    """Raise :class:`DependencyCycle` when *holder*, were it to wait for these, would wait for itself."""
    seqs = json.dumps([seq for seq, _, _ in ties.parents])
    ((is_above,),) = connection.execute(QUERY["is_above"], (seqs, holder)).fetchall()
    if is_above:
        raise DependencyCycle(holder)


def propagate(connection: Statements, seqs: Sequence[int], now_us: int) -> Ripple:
    """Let those that wait know what of *seqs* has finished: release them, or cancel who can never run."""
    if not seqs or not connection.execute(QUERY["has_open_dependency"]).fetchall()[0][0]:
        return STILL
    ended = json.dumps(list(seqs))
    if not connection.execute(QUERY["decide_dependencies"], (ended,)).rowcount:
        return STILL
    return _spread(connection, seqs, now_us)


def _spread(connection: Statements, seqs: Sequence[int], now_us: int) -> Ripple:
    cancelled = _cancel_dependants(connection, seqs, now_us)
    ended = json.dumps([*seqs, *cancelled])  # who waits for any end may go on after a cancelled one
    released = connection.execute(QUERY["release_dependants"], (ended, now_us)).rowcount
    return Ripple(released > 0, bool(cancelled))


def _cancel_dependants(connection: Statements, seqs: Sequence[int], now_us: int) -> list[int]:
    found = connection.execute(QUERY["cancel_dependants"], (json.dumps(list(seqs)), now_us)).fetchall()
    cancelled = [int(seq) for (seq,) in found]
    if cancelled:
        rows = json.dumps(cancelled)
        connection.execute(QUERY["decide_dependencies"], (rows,))
        connection.execute(QUERY["blame_parents"], (rows,))
        connection.execute(QUERY["record_blame"], (rows, now_us, "parent_failed"))
    return cancelled


def demand_possible(connection: Statements, task_id: str) -> None:
    """Raise :class:`ParentsFailed` when a finished task could never run again."""
    failed = [parent for (parent,) in connection.execute(QUERY["failed_parents"], (task_id,)).fetchall()]
    if failed:
        raise ParentsFailed(task_id, failed)


def demand_unneeded(connection: Statements, task_id: str) -> None:
    """Raise :class:`StillNeeded` when unfinished tasks wait, or waited, for a finished one."""
    ((count, example),) = connection.execute(QUERY["unfinished_dependants"], (task_id,)).fetchall()
    if count:
        raise StillNeeded(task_id, count, example)


def reopen(connection: Statements, seq: int, now_us: int) -> None:
    """After a retry of *seq*: who waits for it waits again, and what its end had cancelled is opened again."""
    again = [seq]
    while again:
        rows = json.dumps(again)
        if not connection.execute(QUERY["reopen_dependencies"], (rows,)).rowcount:
            return
        again = [int(found) for (found,) in connection.execute(QUERY["reopen"], (rows,)).fetchall()]
        reopened = json.dumps(again)
        connection.execute(QUERY["record_blame"], (reopened, now_us, "reopened"))
        connection.execute(QUERY["forgive_parents"], (reopened,))


def filled_in(connection: Statements, arguments: bytes) -> bytes:
    """Return *arguments* with the results that they stand for."""
    wanted = codec.references(arguments)
    if not wanted:
        return arguments
    ids = json.dumps(wanted)
    ((size_bytes,),) = connection.execute(QUERY["size_of_results"], (ids,)).fetchall()
    if size_bytes > codec.HANDED_ON_LIMIT_BYTES:
        return codec.refused(arguments, f"the results handed on take {size_bytes:,} bytes")
    found = connection.execute(QUERY["results"], (ids,)).fetchall()
    return codec.filled_in(arguments, {task_id: None if result is None else bytes(result) for task_id, result in found})


def _state(status: TaskStatus, need: Need) -> DependencyState:
    if status not in FINISHED:
        return DependencyState.OPEN
    return DependencyState.MET if need is Need.ANY or status is TaskStatus.COMPLETED else DependencyState.FAILED
