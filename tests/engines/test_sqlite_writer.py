"""The writer when SQLite or a signal lets its leader down: nobody is told what is not true or waits for ever."""

import functools
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from thirdshift.core.errors import OutcomeUnknown
from thirdshift.engines.sqlite.writer import Writer

TIMEOUT_S = 120.0


class Failing(sqlite3.Connection):
    """SQLite with statements that fail: those of ``plan``, by the numbers of the times at which they are run."""

    plan: ClassVar[dict[str, set[int]]] = {}
    error: type[BaseException] = MemoryError
    undoes = False
    """SQLite has rolled the transaction back by itself, as it mostly does when it has no memory."""
    runs: ClassVar[Counter[str]] = Counter()

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        for statement, numbers in Failing.plan.items():
            if sql.startswith(statement):
                Failing.runs[statement] += 1
                if Failing.runs[statement] in numbers:
                    if Failing.undoes:
                        super().execute("ROLLBACK")
                    raise Failing.error
        return super().execute(sql, *parameters)


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """A writer of an empty table."""
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Failing))
    writer = Writer(tmp_path / "tasks.db", lambda: None)
    writer.run(lambda connection: connection.execute("CREATE TABLE note (text TEXT)"), durable=True)
    yield writer
    writer.close()


def insert(text: str) -> Callable[[sqlite3.Connection], str]:
    def operation(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO note VALUES (?)", (text,))
        return text

    return operation


def notes(writer: Writer) -> list[str]:
    return writer.run(lambda c: [text for (text,) in c.execute("SELECT text FROM note ORDER BY text")], durable=False)


class Caller(threading.Thread):
    """Somebody who writes a note, and remembers what he was told."""

    def __init__(self, writer: Writer, text: str) -> None:
        super().__init__(daemon=True)
        self._writer = writer
        self._text = text
        self.told: str | BaseException | None = None

    def run(self) -> None:
        try:
            self.told = self._writer.run(insert(self._text), durable=False)
        except BaseException as error:  # noqa: BLE001  # signals raise anything
            self.told = error


def one_batch(
    writer: Writer, plan: dict[str, set[int]], error: type[BaseException], *, undoes: bool = False
) -> list[str | type[BaseException] | None]:
    """Let three callers come while somebody writes, so that the first of them commits for all; *plan* goes wrong then.

    Returns what each was told.
    """
    callers = [Caller(writer, text) for text in "abc"]

    def hold(_connection: sqlite3.Connection) -> None:
        for number, caller in enumerate(callers, 1):
            caller.start()
            while len(writer._waiting) < number:
                assert caller.is_alive()
        Failing.plan, Failing.error, Failing.undoes = plan, error, undoes
        Failing.runs.clear()

    writer.run(hold, durable=True)
    for caller in callers:
        caller.join(TIMEOUT_S)
        assert not caller.is_alive(), "somebody waits for ever"
    Failing.plan = {}
    return [caller.told if isinstance(caller.told, str | None) else type(caller.told) for caller in callers]


def test_a_commit_without_memory_is_acknowledged_to_nobody(writer: Writer) -> None:
    """SQLite has undone it: who shared the commit must not be told that what he wrote is stored."""
    own = 1  # the commit of who writes first
    told = one_batch(writer, {"COMMIT": {own + 1}}, MemoryError, undoes=True)
    assert told == [OutcomeUnknown] * 3
    with pytest.raises(OutcomeUnknown):
        notes(writer)  # the writer has stopped


@pytest.mark.parametrize("statement", ["PRAGMA synchronous", "BEGIN", "INSERT"])
def test_a_signal_that_ends_the_leaders_call_is_not_taken_for_a_commit(writer: Writer, statement: str) -> None:
    """Wherever it comes before the commit, others commit for themselves; only the leader has written nothing."""
    assert one_batch(writer, {statement: {1}}, KeyboardInterrupt) == [KeyboardInterrupt, "b", "c"]
    assert notes(writer) == ["b", "c"]


@pytest.mark.parametrize(
    ("plan", "undoes", "stored"),
    [
        ({"INSERT": {1, 2}}, False, ["b", "c"]),
        ({"INSERT": {1, 2}}, True, ["b", "c"]),
        ({"INSERT": {2, 4}}, True, ["a", "c"]),
        ({"INSERT": {3, 6}}, True, ["a", "b"]),
        ({"BEGIN": {1}}, False, ["b", "c"]),
        ({"INSERT": {1, 2}, "ROLLBACK": {1}}, False, ["b", "c"]),
    ],
)
def test_without_memory_only_who_needed_it_fails(
    writer: Writer, plan: dict[str, set[int]], undoes: bool, stored: list[str]
) -> None:
    """What SQLite has undone of the others is done again, also when it could not even roll back."""
    told = one_batch(writer, plan, MemoryError, undoes=undoes)
    assert [each if isinstance(each, str) else None for each in told] == [
        text if text in stored else None for text in "abc"
    ]
    assert notes(writer) == stored


def test_a_lone_caller_without_memory_hears_of_it_and_the_next_one_is_served(writer: Writer) -> None:
    """Whatever SQLite has undone by itself, and when it cannot undo it."""
    for plan, undoes in (({"INSERT": {1}}, True), ({"INSERT": {1}, "ROLLBACK": {1}}, False)):
        Failing.runs.clear()
        Failing.plan, Failing.error, Failing.undoes = plan, MemoryError, undoes
        with pytest.raises(MemoryError):
            writer.run(insert("a"), durable=True)
        Failing.plan = {}
    assert writer.run(insert("b"), durable=True) == "b"
    assert notes(writer) == ["b"]
