"""The schema and the queries: the store defends the rules, and the hot paths walk the indexes made for them."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import thirdshift.engines.sqlite as package
from thirdshift.core.engine import TaskFilter
from thirdshift.core.status import TRANSITIONS, TaskStatus
from thirdshift.core.task import AttemptOutcome, PoolKind
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.engines.sqlite.filters import Query, count_query, seqs_query
from thirdshift.engines.sqlite.queries import QUERY, leaving_out, migrations
from thirdshift.testing.conformance import new_task

Connect = Callable[[], sqlite3.Connection]


def test_the_store_knows_exactly_the_legal_changes() -> None:
    """The schema's list and the core's list are one."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for _, script in migrations():
            connection.executescript(script)
        found = connection.execute("SELECT old, new FROM transition").fetchall()
    assert sorted(found) == sorted((old.value, new.value) for old, new in TRANSITIONS)


@pytest.mark.parametrize("new", list(TaskStatus))
@pytest.mark.parametrize("old", list(TaskStatus))
def test_the_store_refuses_what_is_not_legal(old: TaskStatus, new: TaskStatus) -> None:
    """Every pair of statuses, by plain SQL: who bypasses our code meets the same rule."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for _, script in migrations():
        connection.executescript(script)
    holder = "'w', 1" if old is TaskStatus.RUNNING else "NULL, NULL"
    finished = 1 if old.is_finished else "NULL"
    connection.execute(
        "INSERT INTO task (id, name, function, arguments, queue, pool, priority, status, submitted_at, due_at,"
        " durable, max_retries, tags, owner, claimed_at, finished_at)"
        f" VALUES ('{'0' * 32}', 'n', 'f', x'', 'q', 'thread', 0, '{old.value}', 1, 1, 1, 0, '[]',"
        f" {holder}, {finished})"
    )
    change = (
        "UPDATE task SET status = ?, owner = iif(?1 = 'running', 'w', NULL), claimed_at = iif(?1 = 'running', 1, NULL),"
        " finished_at = iif(?1 IN ('completed', 'failed', 'cancelled'), 1, NULL)"
    )
    if (old, new) in TRANSITIONS:
        connection.execute(change, [new.value])
    else:
        with pytest.raises(sqlite3.IntegrityError, match="illegal change"):
            connection.execute(change, [new.value])
    connection.close()


def test_the_words_of_the_schema_are_the_words_of_the_core() -> None:
    """Statuses, pools and outcomes."""
    (_, script), *_later = migrations()
    for column, words in (("status", TaskStatus), ("pool", PoolKind), ("outcome", AttemptOutcome)):
        (listed,) = re.findall(rf"{column} +TEXT +NOT NULL CHECK \(([^)]+)\)", script)
        assert sorted(re.findall(rf"{column} = '(\w+)'", listed)) == sorted(word.value for word in words)


def test_every_query_is_used_and_every_used_query_exists() -> None:
    """No dead SQL, no name that fails at run time."""
    folder = Path(package.__file__).parent
    code = "".join(file.read_text() for file in folder.glob("*.py"))
    used = set(re.findall(r'"(\w+)"', code)) & set(QUERY)
    assert used == set(QUERY)
    assert set(re.findall(r'QUERY\["(\w+)"\]', code)) <= set(QUERY)


def test_a_running_task_cannot_be_deleted(engine: SQLiteEngine, stranger: Connect) -> None:
    """Not even by another program."""
    engine.submit([new_task()])
    connection = stranger()
    connection.execute("UPDATE task SET status = 'running', owner = 'w', claimed_at = 1")
    with pytest.raises(sqlite3.IntegrityError, match="cannot be deleted"):
        connection.execute("DELETE FROM task")


def test_two_live_tasks_cannot_have_one_unique_key(engine: SQLiteEngine, stranger: Connect) -> None:
    """The index of the store itself refuses it, also to another program; a finished task keeps its key beside it."""
    tasks = [new_task(), new_task()]
    engine.submit(tasks)
    engine.cancel(tasks[0].id)
    connection = stranger()
    connection.execute("UPDATE task SET unique_key = 'k'")
    with pytest.raises(sqlite3.IntegrityError, match=r"UNIQUE constraint failed: task\.unique_key"):
        connection.execute("UPDATE task SET status = 'pending', finished_at = NULL WHERE id = ?", [tasks[0].id])


PLANS = {
    "open_lines": ("task_runnable", ()),
    "runnable": ("task_runnable", ("q", "thread", 5)),
    "runnable_keyed": ("key_line_order", ("q", "thread", 5, 0)),
    "runnable_of_key": ("task_runnable", ("q", "thread", 5, "k")),
    "has_room_in_key": ("task_key_running", ("[]",)),
    "submit_claimed": ("key_line_order", ("x",) * 17),
    "promote": ("task_due", {"now": 1, "limit": 5}),
    "next_due": ("task_due", ()),
    "cancel_requests": ("task_running", ("w",)),
    "held_by": ("task_running", ("w",)),
    "look": ("task_due", (1,)),
    "prune": ("task_finished", {"status": "failed", "finished_at": 1, "seq": 1, "limit": 5}),
    "newest_beyond": ("task_finished", {"status": "failed", "rows": 5}),
    "has_up_to": ("task_finished", {"status": "failed", "finished_at": 1, "seq": 1}),
    "count_before": (
        "task_runnable",
        {"queue": "q", "pool": "thread", "priority": 1, "due_at": 1, "seq": 1, "key": "k", "limit": 5},
    ),
    "busy_slots": ("task_running", ("w", "thread")),
    "place": ("sqlite_autoindex_task_1", ("0" * 32,)),
    "last_attempt": ("PRIMARY KEY", (1,)),
    "delete_finished": ("task_finished", {"before": 1, "limit": 5}),
    "attempts": ("PRIMARY KEY", (1, True)),
    "record_fingerprint": ("PRIMARY KEY", ("f", 1, 1)),
    "unknown_since": ("PRIMARY KEY", ("f", 1)),
    "unknown_to": ("PRIMARY KEY", ("f",)),
    "task": ("sqlite_autoindex_task_1", ("0" * 32,)),
    "key_holder": ("task_unique_key", {"id": "0" * 32, "key": "k"}),
    "live_rival": ("task_unique_key", {"id": "0" * 32}),
    "submit_unique": ("held_key USING PRIMARY KEY", ("x",) * 17),
    "has_expired_key": ("held_key_expiry", (1,)),
    "forget_expired_keys": ("held_key_expiry", (1, 5)),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_hot_query_walks_the_index_made_for_it(engine: SQLiteEngine, stranger: Connect, name: str) -> None:
    """No sort, no scan of the table."""
    index, parameters = PLANS[name]
    rows = stranger().execute(f"EXPLAIN QUERY PLAN {QUERY[name]}", parameters).fetchall()
    plan = "\n".join(row[3] for row in rows)
    assert index in plan
    assert "TEMP B-TREE" not in plan
    assert not re.search(r"^SCAN (task|t)$", plan, re.MULTILINE)


def test_leaving_functions_out_walks_the_same_index(engine: SQLiteEngine, stranger: Connect) -> None:
    """In its order, without a sort."""
    query, left_out = leaving_out("runnable", ["shop:send"])
    rows = stranger().execute(f"EXPLAIN QUERY PLAN {query}", ("q", "thread", 5, *left_out)).fetchall()
    plan = "\n".join(row[3] for row in rows)
    assert "USING INDEX task_runnable (limit_key=? AND queue=? AND pool=?)" in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize("name", ["settle", "give_back", "record_attempts", "record_progress", "record_step", "claim"])
def test_a_fenced_write_finds_its_row_by_key(engine: SQLiteEngine, stranger: Connect, name: str) -> None:
    """By the row's number, never by a search."""
    query = QUERY[name]
    names = set(re.findall(r":(\w+)", query))
    parameters = dict.fromkeys(names, 1) if names else (1,) * query.count("?")
    rows = stranger().execute(f"EXPLAIN QUERY PLAN {query}", parameters).fetchall()
    assert any("USING INTEGER PRIMARY KEY" in row[3] for row in rows)


def test_the_counts_walk_indexes_only(engine: SQLiteEngine, stranger: Connect) -> None:
    """A page that asks each second never walks the table."""
    plan = [row[3] for row in stranger().execute(f"EXPLAIN QUERY PLAN {QUERY['counts']}") if "task" in row[3]]
    assert len(plan) == 5
    assert all("INDEX task_" in step for step in plan)


@pytest.mark.parametrize("build", [count_query, seqs_query])
@pytest.mark.parametrize("status", list(TaskStatus))
def test_many_tasks_of_one_status_are_found_by_an_index(
    engine: SQLiteEngine, stranger: Connect, build: Callable[[TaskFilter], Query], status: TaskStatus
) -> None:
    """A filter for the few that failed does not walk the millions that did not."""
    query, parameters = build(TaskFilter(statuses=frozenset({status}), name="n", queue="q"))
    plan = [row[3] for row in stranger().execute(f"EXPLAIN QUERY PLAN {query}", parameters)]
    walked = [step for step in plan if re.match(r"(SCAN|SEARCH) task", step)]
    assert len(walked) == 1
    assert "INDEX task_" in walked[0]


def test_listing_queues_never_walks_the_table(engine: SQLiteEngine, stranger: Connect) -> None:
    """Each branch walks a partial index of unfinished tasks: a million finished ones cost it nothing."""
    rows = stranger().execute(f"EXPLAIN QUERY PLAN {QUERY['unfinished_by_queue']}").fetchall()
    walked = [row[3] for row in rows if re.match(r"(SCAN|SEARCH) task", row[3])]
    assert len(walked) == 5
    assert all(re.search(r"INDEX task_(runnable|due|waiting|running)", step) for step in walked)
