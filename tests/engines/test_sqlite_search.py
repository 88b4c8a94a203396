"""Tasks are found by their words, and the index that finds them is never wrong for long, whatever happens to it."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from thirdshift.core import codec
from thirdshift.core.engine import ClaimRequest
from thirdshift.core.errors import UsageError
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.search import terms
from thirdshift.core.task import AttemptOutcome, NewTask, PoolKind, TaskError
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.conformance import new_task

Finish = Callable[..., None]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SQLiteEngine]:
    """With an index, whose words come when a test asks for them."""
    engine = SQLiteEngine.shared(tmp_path / "tasks.db", clock=FakeClock())
    engine.switch_search(True)
    end = engine.count_ends()
    yield engine
    end()
    engine.close()


def submit(engine: SQLiteEngine, *args: object, **facts: object) -> NewTask:
    task = new_task(arguments=codec.encode_arguments(args, {}), **facts)
    engine.submit([task])
    return task


def run(engine: SQLiteEngine, outcome: AttemptOutcome, value: object = None, error: str | None = None) -> None:
    """Run the next task to this end."""
    worker = engine.register(slots=1)
    (claim,) = engine.exchange([], ClaimRequest(owner=worker.id, free={PoolKind.THREAD: 1})).claims
    now = engine._clock.now()
    failure = None if error is None else TaskError(type="ValueError", message=error)
    ending = Ending(outcome, now, now, codec.encode_result(value), error=failure)
    if failure is not None:
        ending = ending._replace(encoded_result=None)
    assert list(engine.exchange([settle(claim, ending, 60.0)], None).recorded) == [True]
    worker.close()


def found(engine: SQLiteEngine, text: str) -> list[str]:
    """The ids that the words lead to, with an index that is up to date."""
    while engine.catch_up_search():
        pass
    assert engine.search_state().is_current
    return [match.id for match in engine.search(text, 100)]


def test_a_task_is_found_by_what_it_was_submitted_with(engine: SQLiteEngine) -> None:
    """Before it has run: name, function, queue, arguments, tags and key; accents and capitals do not matter."""
    task = submit(engine, "Müller & Söhne", ["invoice-42"], name="bill", queue="mail", tags=("vip",))
    other = submit(engine, "somebody else")
    for text in (
        "bill",
        "echo",
        "mail",
        "muller",
        "MÜLLER",
        '"müller & söhne"',
        "invoice",
        "invoice-42",
        "invo*",
        "vip",
    ):
        assert task.id in found(engine, text), text
    assert found(engine, "else") == [other.id]
    assert found(engine, "müller else") == [], "all words have to be there"
    assert set(found(engine, "echo")) == {task.id, other.id}


def test_a_task_is_found_by_what_became_of_it(engine: SQLiteEngine) -> None:
    """Results, and the errors of every attempt, also while it waits to be tried again."""
    done = submit(engine, 1)
    assert found(engine, "splendid") == []
    run(engine, AttemptOutcome.COMPLETED, {"answer": "splendid"})
    failed = submit(engine, 2)
    run(engine, AttemptOutcome.FAILED, error="connection timeout at noon")
    assert found(engine, "splendid") == [done.id]
    assert found(engine, "timeout") == found(engine, "error:timeout noon") == [failed.id]
    assert found(engine, "result:timeout") == []
    (match,) = engine.search("noon", 10)
    assert match.excerpt == "ValueError: connection timeout at \x01noon\x02"


def test_the_newest_are_first_and_the_limit_holds(engine: SQLiteEngine) -> None:
    """More than one batch of them."""
    tasks = [new_task() for _ in range(1_200)]
    engine.submit(tasks)
    assert found(engine, "echo") == [task.id for task in reversed(tasks)][:100]


def test_deleted_tasks_are_forgotten_and_their_numbers_given_again(engine: SQLiteEngine) -> None:
    """Whoever has the number now is found by its own words."""
    old = submit(engine, "first")
    assert found(engine, "first") == [old.id]
    run(engine, AttemptOutcome.COMPLETED)
    engine.delete(old.id)
    new = submit(engine, "second")
    assert found(engine, "second") == [new.id]
    assert found(engine, "first") == []
    with closing(sqlite3.connect(engine._folder / "search.db")) as index:
        assert index.execute("SELECT count(*) FROM doc").fetchone() == (1,)


def test_what_ended_while_nobody_indexed_is_found_later(engine: SQLiteEngine) -> None:
    """The feed is kept for the index, also when the figures have been folded."""
    task = submit(engine, 1)
    assert found(engine, "echo") == [task.id]
    run(engine, AttemptOutcome.COMPLETED, "splendid")
    while engine.fold_figures():
        pass
    assert (engine.search_state().tasks, engine.search_state().ends) == (0, 1)
    assert found(engine, "splendid") == [task.id]
    run_after = submit(engine, 2)
    run(engine, AttemptOutcome.COMPLETED, "great")
    assert found(engine, "great") == [run_after.id]
    with closing(sqlite3.connect(engine.location)) as connection:
        while engine.fold_figures():
            pass
        assert connection.execute("SELECT count(*) FROM feed").fetchone()[0] <= 2, "what is indexed is not kept"


@pytest.mark.parametrize("damage", ["deleted", "overwritten", "cut"])
def test_a_lost_or_damaged_index_is_built_anew(engine: SQLiteEngine, damage: str) -> None:
    """It is derived: everything is found again."""
    tasks = [submit(engine, "word") for _ in range(30)]
    run(engine, AttemptOutcome.COMPLETED, "splendid")
    assert len(found(engine, "word")) == 30
    index = engine._folder / "search.db"
    match damage:
        case "deleted":
            index.unlink()
        case "overwritten":
            index.write_bytes(b"no database at all, but long enough to be taken for one" * 200)
        case "cut":
            index.write_bytes(index.read_bytes()[:5_000])
    assert len(found(engine, "word")) == 30
    assert found(engine, "splendid") == [tasks[0].id]


def test_a_switched_off_index_says_so(engine: SQLiteEngine) -> None:
    """And knows everything when it is switched on again."""
    task = submit(engine, "before")
    assert found(engine, "before") == [task.id]
    engine.switch_search(False)
    with pytest.raises(UsageError, match="no index of words is kept"):
        engine.search("before", 10)
    run(engine, AttemptOutcome.COMPLETED, "meanwhile")
    while engine.fold_figures():
        pass
    engine.switch_search(True)
    assert found(engine, "before meanwhile") == [task.id]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("two words", '"two" AND "words"'),
        ("error:timeout name:send", 'error : "timeout" AND name : "send"'),
        ('"a phrase" x*', '"a phrase" AND "x"*'),
        ("nofield:x", '"nofield:x"'),
        ("a@example.org", '"a@example.org"'),
        ("NEAR(a OR b) NOT c", '"NEAR(a" AND "OR" AND "b)" AND "NOT" AND "c"'),
        ('half "quote', '"half" AND "quote"'),
        ("- + a", '"a"'),
    ],
)
def test_words_are_words_and_no_language(text: str, query: str) -> None:
    """Whatever people type is looked for, not parsed."""
    assert terms(text) == query


@pytest.mark.parametrize("text", ["", "   ", "*", "- ()", '""'])
def test_no_words_are_refused(text: str) -> None:
    """With what may stand there."""
    with pytest.raises(UsageError, match="has no word to look for"):
        terms(text)


KILLED = """
import sys
from pathlib import Path
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.clock import FakeClock
engine = SQLiteEngine.shared(Path(sys.argv[1]), clock=FakeClock())
print("ready", flush=True)
while True:
    engine.forget_search()
    while engine.catch_up_search():
        pass
"""


def test_a_kill_while_it_indexes_loses_no_words(engine: SQLiteEngine) -> None:
    """At any moment, again and again."""
    engine.submit([new_task(arguments=codec.encode_arguments((f"word{number}",), {})) for number in range(2_000)])
    for number in range(8):
        child = subprocess.Popen([sys.executable, "-c", KILLED, engine.location], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.stdout.close()
        try:
            child.wait(0.02 + 0.03 * number)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert len(found(engine, f"word{number}")) == 1
        assert len(found(engine, "word1999")) == 1
    assert len(found(engine, "echo")) == 100
