"""The history checker believes nothing: a file that was changed behind everybody's back does not pass."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from thirdshift.core.engine import ClaimRequest
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.task import AttemptOutcome, PoolKind
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.conformance import new_task
from thirdshift.testing.torture.checker import Watcher, calls_of, judge_promises, look

DONE, OPEN = f"{1:032x}", f"{2:032x}"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A store with one completed task and one that waits."""
    clock = FakeClock()
    engine = SQLiteEngine.shared(tmp_path / "tasks.db", clock=clock)
    engine.submit([new_task(id=DONE), new_task(id=OPEN)])
    worker = engine.register(slots=1)
    (claim,) = engine.exchange([], ClaimRequest(owner=worker.id, free={PoolKind.THREAD: 1})).claims
    ending = Ending(AttemptOutcome.COMPLETED, clock.now(), clock.now(), b"1")
    engine.exchange([settle(claim, ending, 0.0)], None)
    worker.close()
    engine.close()
    return tmp_path / "tasks.db"


BREAKS = {
    "DELETE FROM task WHERE status = 'pending'": "I16",
    "DELETE FROM task WHERE status = 'completed'": "I1",
    "UPDATE attempt SET result = x'32'": "I2",
    "UPDATE task SET attempt = attempt + 1 WHERE status = 'pending'": "I2",
    "UPDATE task SET failures = 2 WHERE status = 'pending'": "I6",
    "DELETE FROM attempt": "I2",
}


@pytest.mark.parametrize("sql", BREAKS)
def test_what_an_event_may_not_change_must_be_as_it_was(database: Path, sql: str) -> None:
    """Whatever changes while nothing was asked for is found, and has a number."""
    with closing(Watcher(database)) as watcher:
        assert watcher.after({"op": "time", "now_us": 0}) == []
        with closing(sqlite3.connect(database, isolation_level=None)) as stranger:
            stranger.execute("PRAGMA foreign_keys = ON")
            stranger.execute(sql)
        found = watcher.after({"op": "time", "now_us": 0})
    assert BREAKS[sql] in {violation.invariant for violation in found}


def log(what: str, answer: str | None, **facts: object) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = [{"begin": 1, "what": what, "facts": facts}]
    return lines if answer is None else [*lines, {"answer": 1, "how": answer}]


@pytest.mark.parametrize(
    ("what", "answer", "facts", "invariant"),
    [
        ("submit", "done", {"tasks": [DONE, OPEN]}, None),
        ("submit", None, {"tasks": [DONE, OPEN]}, None),
        ("submit", "unknown", {"tasks": [DONE, OPEN]}, None),
        ("submit", "refused", {"tasks": [DONE, OPEN]}, "I1"),
        ("submit", "done", {"tasks": [DONE, OPEN, f"{3:032x}"]}, "I1"),
        ("submit", "unknown", {"tasks": [DONE, OPEN, f"{3:032x}"]}, "I1"),
        ("submit", "done", {"tasks": [DONE]}, "I1"),
        ("settle", "done", {"ended": [(DONE, 1, "failed")]}, "I2"),
        ("settle", "refused", {"ended": [(DONE, 1, "completed")]}, "I2"),
        ("cancel", "done", {"tasks": [OPEN], "kinds": ["cancelled"]}, "I4"),
        ("step", "done", {"task": DONE, "name": "one"}, "I24"),
        ("pause", "done", {"queue": "default"}, "I1"),
        ("delete", "done", {"tasks": [DONE]}, "I1"),
    ],
)
def test_what_was_answered_must_be_true(
    database: Path, what: str, answer: str | None, facts: dict[str, object], invariant: str | None
) -> None:
    """An answer that the file does not bear out is found; where nobody was told anything, both are right."""
    snapshot, found = look(database)
    assert snapshot is not None
    assert not found
    lines = log(what, answer, **facts)
    if what != "submit":
        lines += [{"begin": 2, "what": "submit", "facts": {"tasks": [DONE, OPEN]}}]
    found = judge_promises(calls_of(lines), snapshot)
    assert {violation.invariant for violation in found} == ({invariant} if invariant else set())
