"""Whatever clients and workers do in whatever order, killed on the way or not, the store is as a small model says.

Two clients are processes of their own (``store_clients``) on one file; a crash is SIGKILL, at a statement of a call or
between two calls. A call that was answered must be in the store; one that died must be in it whole or not at all (a
rescue: dead worker by dead worker). After every step the file is read by plain SQL and compared with the model. Calls
of several clients never overlap here: ``tests/crash/test_crowd.py`` is about that.

Long form: ``THIRDSHIFT_EXAMPLES=5000`` (``make torture``), with other examples at every run.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from thirdshift.core.status import FINISHED, TRANSITIONS, TaskStatus
from thirdshift.core.task import AttemptOutcome
from thirdshift.testing.clock import START

PROGRAM = Path(__file__).with_name("store_clients.py")
EXAMPLES = int(os.environ.get("THIRDSHIFT_EXAMPLES") or 0)
SETTINGS = settings(
    max_examples=EXAMPLES or 60,
    stateful_step_count=60 if EXAMPLES else 30,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
FAULT_SETTINGS = settings(SETTINGS, max_examples=400, stateful_step_count=30, derandomize=True, phases=[Phase.generate])
ANSWER_S = 120.0
CLIENTS = (0, 1)
QUEUES = ("default", "mail")
POOLS = ("thread", "process")
SECOND_US = 1_000_000
KEYS = ("a", "b")
PLAIN = {"queue": "default", "pool": "thread", "priority": 10, "durable": True, "max_retries": 1, "limit_key": None}
UNIQUE = st.fixed_dictionaries(
    {
        "key": st.sampled_from("aaab"),
        "period_s": st.sampled_from((None, None, 5, 60)),
        "on_conflict": st.sampled_from(("keep", "replace", "replace", "error")),
    }
)
END_S = 10_000_000
"""Later than anything that a task is due."""


# The model


@dataclass(frozen=True, slots=True)
class Between:
    """A moment that the model does not know exactly: a process never lets its own time go back."""

    first_s: int
    last_s: int


Moment = int | Between


@dataclass(slots=True)
class Task:
    """What the model knows of one task; the fields of :class:`Row`, and what decides about it."""

    order: int
    queue: str
    pool: str
    priority: int
    max_retries: int
    status: str
    due_s: Moment
    attempt: int = 0
    failures: int = 0
    owner: str | None = None
    is_cancelling: bool = False
    finished_s: Moment | None = None
    attempts: list[tuple[int, str, str]] = field(default_factory=list)
    progress: int | None = None
    key: str | None = None
    after: dict[str, str] = field(default_factory=dict)
    """The tasks that it waits for or has waited for, and what it needs of each."""
    is_orphaned: bool = False
    """The end of one of them has cancelled it."""
    limit_key: str | None = None

    @property
    def urgency(self) -> tuple[int, int, int]:
        assert isinstance(self.due_s, int)
        return -self.priority, self.due_s, self.order

    def is_due(self, now_s: int) -> bool:
        assert isinstance(self.due_s, int)
        return self.status in ("scheduled", "retrying") and self.due_s <= now_s


@dataclass(frozen=True, slots=True)
class Row:
    """One task as the file tells it: the numbers, outcomes and workers of its attempts too."""

    status: str
    due_s: int
    attempt: int
    failures: int
    owner: str | None
    is_cancelling: bool
    finished_s: int | None
    attempts: list[tuple[int, str, str]]
    progress: int | None
    key: str | None
    after: dict[str, str]
    is_orphaned: bool
    limit_key: str | None


@dataclass(frozen=True, slots=True)
class Contents:
    """What the file holds."""

    rows: dict[str, Row]
    paused: set[str]
    held_keys: dict[str, tuple[str, int]]
    """The task that holds each key for a period, and until when."""
    key_limits: dict[str, int]
    is_extract_right: bool
    """Whether the table of the first tasks of limit keys says what the tasks say."""


class Conflict(Exception):
    """Another task has the unique key."""


@dataclass(frozen=True, slots=True)
class Held:
    """A claim that a worker was told of, whether or not it still holds it."""

    id: str
    attempt: int
    owner: str
    failures: int
    number: int
    """Of all claims of this example."""


@dataclass(slots=True)
class Model:
    """The store in short: what each call does to the tasks."""

    tasks: dict[str, Task] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    ends: Counter[str] = field(default_factory=Counter)
    """How often each id has reached a final status: once in each life."""
    submitted: int = 0
    held_keys: dict[str, tuple[str, int]] = field(default_factory=dict)
    key_limits: dict[str, int] = field(default_factory=dict)

    def copy(self) -> "Model":
        tasks = {
            task_id: replace(task, attempts=[*task.attempts], after=dict(task.after))
            for task_id, task in self.tasks.items()
        }
        return Model(
            tasks, set(self.paused), Counter(self.ends), self.submitted, dict(self.held_keys), dict(self.key_limits)
        )

    def submit(self, new: dict[str, Any], now: Between) -> None:
        if new["id"] in self.tasks:
            return
        self.submitted += 1
        moment = now.first_s if now.first_s == now.last_s else now
        due_s = moment if new["due_s"] is None else new["due_s"]
        is_later = isinstance(due_s, int) and due_s > now.first_s
        facts = {name: new[name] for name in ("queue", "pool", "priority", "max_retries", "limit_key")}
        status = "scheduled" if is_later else "pending"
        self.tasks[new["id"]] = Task(order=self.submitted, status=status, due_s=due_s, **facts)
        self.wait_for(new["id"], new.get("after") or {}, moment)

    def wait_for(self, task_id: str, after: dict[str, str], now: Moment) -> None:
        task = self.tasks[task_id]
        task.after = dict(after)
        if set(self.needs(task)) - {"met"}:
            task.status = "waiting"
            self.decide(task_id, now)

    def needs(self, task: Task) -> list[str]:
        """Return how far each of those is that *task* waits for: open, met or failed."""
        states = []
        for parent_id, need in task.after.items():
            status = TaskStatus(self.tasks[parent_id].status)
            is_good = need == "any" or status is TaskStatus.COMPLETED
            states.append("open" if not status.is_finished else "met" if is_good else "failed")
        return states

    def decide(self, task_id: str, now: Moment) -> None:
        """Release a waiting task, or cancel it."""
        task = self.tasks[task_id]
        states = self.needs(task)
        if "failed" in states:
            task.is_orphaned = True
            self.finish(task_id, "cancelled", now)
        elif "open" not in states:
            if isinstance(now, Between):
                now = now.first_s  # who calls has seen to it that it is known
            assert isinstance(task.due_s, int)
            task.status = "scheduled" if task.due_s > now else "pending"
            task.due_s = max(task.due_s, now)

    @property
    def has_waiting(self) -> bool:
        return any(task.status == "waiting" for task in self.tasks.values())

    def submit_unique(self, new: dict[str, Any], now_s: int) -> str:
        """Return the task that the submit led to."""
        key, period_s, on_conflict = (new["unique"][name] for name in ("key", "period_s", "on_conflict"))
        if self.held_keys.get(key, ("", now_s + 1))[1] <= now_s:
            del self.held_keys[key]
        holder = new["id"] if new["id"] in self.tasks else self.live(key) or self.held_keys.get(key, (None, 0))[0]
        if holder is None:
            self.submit(new, Between(now_s, now_s))
            self.tasks[new["id"]].key = key
        elif holder == new["id"]:
            return new["id"]
        elif on_conflict == "error":
            raise Conflict(holder)
        elif on_conflict == "keep" or not self.replace(holder, new, now_s):
            return holder
        if period_s is not None:
            self.held_keys[key] = (holder or new["id"], now_s + period_s)
        return holder or new["id"]

    def live(self, key: str | None) -> str | None:
        """Return the unfinished task that has *key*."""
        live = (task_id for task_id, task in self.tasks.items() if task.key == key and task.finished_s is None)
        return None if key is None else next(live, None)

    def replace(self, holder: str, new: dict[str, Any], now_s: int) -> bool:
        after = new.get("after") or {}
        if self.is_above(holder, set(after)):
            raise Conflict(holder)
        task = self.tasks.get(holder)
        if task is None or task.status not in ("pending", "scheduled", "retrying", "waiting"):
            return False
        task.queue, task.pool, task.priority = new["queue"], new["pool"], new["priority"]
        task.max_retries, task.failures, task.limit_key = new["max_retries"], 0, new["limit_key"]
        task.due_s = now_s if new["due_s"] is None else new["due_s"]
        task.status = "scheduled" if task.due_s > now_s else "pending"
        self.wait_for(holder, after, now_s)
        return True

    def is_above(self, holder: str, tasks: set[str]) -> bool:
        """Return whether one of *tasks*, or what they wait for, and so on, is *holder*."""
        seen: set[str] = set()
        while tasks:
            seen |= tasks
            tasks = {parent for each in tasks for parent in self.tasks[each].after} - seen
        return holder in seen

    def room(self, key: str | None) -> int:
        """Return how many more tasks of a limit key may run."""
        running = [task for task in self.tasks.values() if task.status == "running" and task.limit_key == key]
        return 1 if key is None else self.key_limits.get(key, 1) - len(running)

    def limit_key(self, key: str, concurrency: int) -> None:
        self.key_limits[key] = concurrency
        if concurrency == 1:
            del self.key_limits[key]

    def claim_at_once(self, task_id: str, worker: str, now_s: int) -> bool:
        """Claim the task that was submitted just now; returns whether nothing of its line should come first."""
        new = self.tasks[task_id]
        runnable = [task for task in self.tasks.values() if task.status == "pending" or task.is_due(now_s)]
        able = [task for task in runnable if self.room(task.limit_key) > 0]
        line = [task for task in able if (task.queue, task.pool) == (new.queue, new.pool)]
        is_first = min(line, key=lambda task: task.urgency, default=None) is new and new.queue not in self.paused
        is_first &= new.limit_key is None
        new.status, new.owner, new.attempt = "running", worker, 1
        return is_first

    def holder(self, claim: Held, owner: str | None = None) -> Task | None:
        """Return the task of *claim* if the claim still holds it."""
        task = self.tasks.get(claim.id)
        is_held = task is not None and (task.attempt, task.owner) == (claim.attempt, owner or claim.owner)
        return task if is_held else None

    def settle(self, claim: Held, outcome: str, wait_s: int, owner: str | None, now_s: int) -> bool:
        task = self.holder(claim, owner)
        if task is None:
            return False
        worker, task.owner = task.owner, None
        assert worker is not None
        recorded = "cancelled" if task.is_cancelling and outcome != "interrupted" else outcome
        task.attempts.append((task.attempt, recorded, worker))
        if task.is_cancelling:
            self.finish(claim.id, "cancelled", now_s)
        elif outcome in ("completed", "cancelled"):
            self.finish(claim.id, outcome, now_s)
        elif outcome == "interrupted":
            task.status = "pending"
        elif outcome == "snoozed":
            task.status, task.due_s = "scheduled" if wait_s else "pending", now_s + wait_s
        else:
            task.failures += 1
            if claim.failures >= task.max_retries:
                self.finish(claim.id, "failed", now_s)
            else:
                task.status, task.due_s = "retrying" if wait_s else "pending", now_s + wait_s
        return True

    def finish(self, task_id: str, status: str, now: Moment) -> None:
        task = self.tasks[task_id]
        task.status, task.finished_s, task.owner = status, now, None
        self.ends[task_id] += 1
        for child_id, child in self.tasks.items():
            if child.status == "waiting" and task_id in child.after:
                self.decide(child_id, now)

    def promote(self, now_s: int) -> None:
        for task in self.tasks.values():
            if task.is_due(now_s):
                task.status = "pending"

    def claim(self, worker: str, free: dict[str, int], queues: Sequence[str] | None) -> list[tuple[str, int]]:
        """Claim as promised: strictly by priority, due time and order of submission; returns (task, attempt) pairs."""
        runnable = [
            (task_id, task)
            for task_id, task in self.tasks.items()
            if task.status == "pending" and task.queue not in self.paused and (queues is None or task.queue in queues)
        ]
        left = Counter(free)
        claimed: list[tuple[str, int]] = []
        for task_id, task in sorted(runnable, key=lambda pair: pair[1].urgency):
            if left[task.pool] and self.room(task.limit_key) > 0:
                left[task.pool] -= 1
                task.status, task.owner, task.attempt = "running", worker, task.attempt + 1
                claimed.append((task_id, task.attempt))
        return claimed

    def give_back(self, claim: Held, now: Between) -> None:
        task = self.holder(claim)
        if task is None:
            return
        task.owner = None
        if task.is_cancelling:
            self.finish(claim.id, "cancelled", now)
        else:
            task.status = "pending"

    def rescue(self, dead: str, now_s: int) -> list[str]:
        held = [task_id for task_id, task in self.tasks.items() if task.owner == dead]
        for task_id in held:
            task = self.tasks[task_id]
            task.owner = None
            task.attempts.append((task.attempt, "interrupted", dead))
            if task.is_cancelling:
                self.finish(task_id, "cancelled", now_s)
            else:
                task.status = "pending"
        return held

    def cancel(self, task_id: str, now: Between) -> bool:
        task = self.tasks.get(task_id)
        if task is None or TaskStatus(task.status).is_finished:
            return False
        task.is_cancelling = True
        if task.status != "running":
            self.finish(task_id, "cancelled", now)
        return True

    def retry(self, task_id: str, now: Between) -> bool:
        task = self.tasks.get(task_id)
        if task is None or not TaskStatus(task.status).is_finished:
            return False
        if (rival := self.live(task.key)) is not None:
            raise Conflict(rival)
        failed = [parent for parent, state in zip(task.after, self.needs(task), strict=True) if state == "failed"]
        if failed:
            raise Conflict(min(failed, key=lambda parent: self.tasks[parent].order))
        task.status = "waiting" if "open" in self.needs(task) else "pending"
        task.due_s, task.failures, task.finished_s = now, 0, None
        task.is_cancelling = task.is_orphaned = False
        self.open_again([task_id])
        return True

    def open_again(self, parents: list[str]) -> None:
        while parents:
            children = [child for child in self.tasks.items() if not child[1].after.keys().isdisjoint(parents)]
            parents = []
            for child_id, child in sorted(children, key=lambda pair: pair[1].order):
                is_open = child.is_orphaned and "failed" not in self.needs(child)
                if is_open and child.status == "cancelled" and self.live(child.key) is None:
                    child.status, child.finished_s, child.failures, child.is_orphaned = "waiting", None, 0, False
                    parents.append(child_id)

    def delete_finished(self, before_s: int) -> int:
        needed = {parent for task in self.tasks.values() if task.finished_s is None for parent in task.after}
        finished = [task_id for task_id, task in self.tasks.items() if _is_before(task.finished_s, before_s)]
        old = [task_id for task_id in finished if task_id not in needed]
        for task_id in old:
            del self.tasks[task_id]
        for task in self.tasks.values():
            task.after = {parent: need for parent, need in task.after.items() if parent in self.tasks}
        return len(old)

    def why_not(self, found: Contents) -> str | None:
        """Return what is in the file and not in the model, or the other way round."""
        rows = found.rows
        if missing := self.tasks.keys() - rows.keys():
            return f"tasks are missing: {sorted(missing)}"
        if strange := rows.keys() - self.tasks.keys():
            return f"tasks that nobody asked for: {sorted(strange)}"
        if found.paused != self.paused:
            return f"paused are {found.paused} instead of {self.paused}"
        if found.held_keys != self.held_keys:
            return f"held keys are {found.held_keys} instead of {self.held_keys}"
        if found.key_limits != self.key_limits:
            return f"limits of keys are {found.key_limits} instead of {self.key_limits}"
        if not found.is_extract_right:
            return "the first tasks of limit keys are others than the tasks say"
        for task_id, task in self.tasks.items():
            names = set(Row.__dataclass_fields__) - ({"due_s"} if TaskStatus(task.status).is_finished else set())
            for name in sorted(names):  # when a finished task was due counts no more
                if not _agrees(getattr(task, name), getattr(rows[task_id], name)):
                    return f"{task_id} {name}: {rows[task_id]} instead of {task}"
        return None

    def learn(self, rows: dict[str, Row]) -> None:
        """Take over the moments that are known exactly now."""
        for task_id, task in self.tasks.items():
            task.due_s, task.finished_s = rows[task_id].due_s, rows[task_id].finished_s


def _is_before(moment: Moment | None, before_s: int) -> bool:
    return isinstance(moment, int) and moment < before_s


def _agrees(expected: Any, found: Any) -> bool:
    if isinstance(expected, Between):
        return isinstance(found, int) and expected.first_s <= found <= expected.last_s
    return bool(expected == found)


# The file, by plain SQL

_AUDIT = """
CREATE TABLE audit (task TEXT NOT NULL, old TEXT NOT NULL, new TEXT NOT NULL);
CREATE TRIGGER audit_of_status AFTER UPDATE OF status ON task
BEGIN
    INSERT INTO audit VALUES (OLD.id, OLD.status, NEW.status);
END;
"""
"""Notes every single change of a status, also several in one transaction."""

_WRONG_EXTRACT = """
WITH right AS (
    SELECT limit_key, queue, pool, priority, due_at, seq FROM (
        SELECT *, row_number() OVER (PARTITION BY limit_key, queue, pool ORDER BY priority DESC, due_at, seq) AS place
        FROM task WHERE status = 'pending' AND limit_key IS NOT NULL
    ) WHERE place = 1
)
SELECT * FROM (SELECT * FROM right EXCEPT SELECT * FROM key_line)
UNION ALL
SELECT * FROM (SELECT * FROM key_line EXCEPT SELECT * FROM right)
"""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Read only: the last connection that can write would tidy up when it is closed, which crashed clients do not."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection:
        yield connection


def rows_of(connection: sqlite3.Connection) -> dict[str, Row]:
    attempts: dict[int, list[tuple[int, str, str]]] = {}
    for seq, *attempt in connection.execute("SELECT task, number, outcome, worker FROM attempt ORDER BY task, number"):
        attempts.setdefault(seq, []).append(tuple(attempt))
    after: dict[int, dict[str, str]] = {}
    for child, parent, need in connection.execute("SELECT child, id, need FROM dependency JOIN task ON seq = parent"):
        after.setdefault(child, {})[parent] = need
    tasks = connection.execute(
        "SELECT seq, id, status, due_at, t.attempt, failures, owner, cancel_requested_at, finished_at, p.attempt,"
        " unique_key, cancelled_by, limit_key"
        " FROM task t LEFT JOIN progress p ON p.task = seq"
    )
    return {
        task_id: Row(
            status=status,
            due_s=_seconds(due_us),
            attempt=attempt,
            failures=failures,
            owner=owner,
            is_cancelling=cancel_us is not None,
            finished_s=None if finished_us is None else _seconds(finished_us),
            attempts=attempts.get(seq, []),
            progress=progress,
            key=key,
            after=after.get(seq, {}),
            is_orphaned=orphaned_by is not None,
            limit_key=limit_key,
        )
        for (seq, task_id, status, due_us, attempt, failures, owner, cancel_us, finished_us, *rest) in tasks
        for progress, key, orphaned_by, limit_key in [rest]
    }


def _seconds(moment_us: int) -> int:
    seconds, rest_us = divmod(moment_us - int(START.timestamp()) * SECOND_US, SECOND_US)
    assert rest_us == 0, "every moment of this test is a full second"
    return seconds


# The clients


class Died(Exception):
    """The client is dead, as it was told to be."""


class Client:
    """One client process; it is dead before it is opened, after a crash and after it was closed."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pid_descriptor = -1
        self._socket: socket.socket
        self._lines: Any = None
        self.die_at: int | None = None
        self.latest_s = 0
        """The latest moment that it has seen."""
        self.workers: list[str] = []

    @property
    def is_alive(self) -> bool:
        return self._lines is not None

    def open(self, path: Path, at_s: int) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(ANSWER_S)
        socket.send_fds(self._control, [b"!"], [theirs.fileno()])
        theirs.close()
        self._pid_descriptor = os.pidfd_open(int(self._control.recv(32)))
        self._lines = self._socket.makefile("rw", encoding="ascii", newline="\n")
        self.latest_s = at_s
        self._ask({"path": str(path), "at_s": at_s})

    def call(self, name: str, at_s: int, **arguments: Any) -> Any:
        """Make one call; raises :class:`Died` when the client was to die in it."""
        self.latest_s = max(self.latest_s, at_s)
        die_at, self.die_at = self.die_at, None
        try:
            return self._ask({"call": name, "at_s": at_s, "die_at": die_at, "with": arguments})
        except (EOFError, ConnectionError):
            assert die_at is not None, f"the client died in {name}{arguments}"
            self._bury()
            raise Died from None

    def kill(self) -> None:
        """Kill it, and return when the kernel has closed all that it had open."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pid_descriptor, signal.SIGKILL)
            self._bury()

    def _ask(self, said: dict[str, Any]) -> Any:
        self._lines.write(f"{json.dumps(said)}\n")
        self._lines.flush()
        line = self._lines.readline()
        if not line:
            raise EOFError
        answer = json.loads(line)
        assert answer["error"] is None, answer["error"]
        return answer["value"]

    def _bury(self) -> None:
        assert select.select([self._pid_descriptor], [], [], ANSWER_S)[0], "a killed client is still there"
        os.close(self._pid_descriptor)
        with contextlib.suppress(ConnectionError):  # what was not sent yet is lost with it
            self._lines.close()
        self._socket.close()
        self._lines, self.die_at, self.workers = None, None, []


@contextlib.contextmanager
def forks(fault: str | None = None) -> Iterator[socket.socket]:
    """Start the program that forks clients; yields its control socket."""
    ours, theirs = socket.socketpair()
    ours.settimeout(ANSWER_S)
    command = [sys.executable, "-W", "error", str(PROGRAM), str(theirs.fileno()), *([fault] if fault else [])]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]):
        theirs.close()
        try:
            yield ours
        finally:
            ours.close()  # which ends the program


# The machine


class StoreMachine(RuleBasedStateMachine):
    """Two clients with up to two workers each, a model, and a judge that reads the file."""

    control: ClassVar[socket.socket]
    tally: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)
        self.path = Path(self.folder.name) / "tasks.db"
        self.now_s = 0
        self.steps = 0
        self.model = Model()
        self.clients = [Client(self.control) for _ in CLIENTS]
        self.claims: list[Held] = []
        self.blobs: list[str] = []
        """What the engine said, for each of ``claims``: it goes back as it came."""
        self.gone: list[str] = []
        """Workers that are dead and may not be forgotten yet."""
        self.ids: list[str] = []
        self.rows: dict[str, Row] = {}

    # Helpers

    def client(self, data: st.DataObject) -> Client:
        """Choose a client, and open it when it is dead."""
        client = self.clients[data.draw(st.sampled_from(CLIENTS))]
        if not client.is_alive:
            client.open(self.path, self.now_s)
        return client

    def worker(self, data: st.DataObject) -> tuple[Client, str]:
        """Choose a worker, registered first where its client has none."""
        client = self.client(data)
        if not client.workers:
            client.die_at = None
            client.workers.append(self.call(client, "register", ...))
        return client, data.draw(st.sampled_from(client.workers))

    def new_ids(self, count: int) -> list[str]:
        ids = [f"{len(self.ids) + number:032x}" for number in range(1, count + 1)]
        self.ids += ids
        return ids

    def now_of(self, client: Client) -> Between:
        return Between(self.now_s, max(self.now_s, client.latest_s))

    def call(self, client: Client, name: str, expected: Any, *outcomes: Model, **arguments: Any) -> Any:
        """Make a call that, answered, is *expected* and the last of *outcomes*; died, any of them or none at all."""
        self.tally["calls"] += 1
        workers = list(client.workers)
        try:
            value = client.call(name, self.now_s, **arguments)
        except Died:
            self.tally["deaths in a call"] += 1
            self.gone += workers
            found = self.read()
            reasons = [model.why_not(found) for model in (self.model, *outcomes)]
            assert None in reasons, f"a call that died is half done: {reasons}"
            self.model = (self.model, *outcomes)[reasons.index(None)]
            raise
        assert expected is ... or value == expected, f"{name} says {value} instead of {expected}"
        self.model = outcomes[-1] if outcomes else self.model
        return value

    def try_to(self, client: Client, name: str, expected: Any, after: Model, **arguments: Any) -> None:
        with contextlib.suppress(Died):
            self.call(client, name, expected, after, **arguments)

    def read(self) -> Contents:
        with reading(self.path) as connection:
            rows = rows_of(connection)
            paused = {name for (name,) in connection.execute("SELECT name FROM queue WHERE paused_at IS NOT NULL")}
            held = connection.execute("SELECT key, holder, expires_at FROM held_key").fetchall()
            key_limits = dict(connection.execute("SELECT limit_key, concurrency FROM key_limit"))
            is_extract_right = not connection.execute(_WRONG_EXTRACT).fetchall()
        held_keys = {key: (holder, _seconds(expires_us)) for key, holder, expires_us in held}
        return Contents(rows, paused, held_keys, key_limits, is_extract_right)

    # Rules: clients

    @initialize()
    def make_the_file(self) -> None:
        self.clients[0].open(self.path, self.now_s)
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.executescript(_AUDIT)
        ids = self.new_ids(3)
        tasks = [{"id": task_id, "due_s": None, **PLAIN} for task_id in ids]
        for task in tasks:
            self.model.submit(task, Between(0, 0))
        answer = {"led_to": ids, "claim": None}
        self.call(self.clients[0], "submit", answer, tasks=tasks, seat=None, is_taken=False)

    @rule(
        data=st.data(),
        name=st.sampled_from(
            ("kill", "kill", "kill all", "register", "leave", "close", "checkpoint", "rescue", "rescue", "rescue")
        ),
    )
    def a_client(self, data: st.DataObject, name: str) -> None:
        """It dies, comes or goes, or does what others should not notice."""
        client = self.client(data)
        with contextlib.suppress(Died):
            match name:
                case "kill":
                    self.kill(client)
                case "kill all":
                    for each in self.clients:
                        self.kill(each)
                case "register":
                    client.workers.append(self.call(client, "register", ...))
                case "rescue":
                    self.rescue(*self.worker(data))
                case "leave" if client.workers:
                    worker = data.draw(st.sampled_from(client.workers))
                    self.call(client, "deregister", None, worker=worker)
                    client.workers.remove(worker)
                    self.gone.append(worker)
                case "close":
                    self.call(client, "close", None)
                    self.kill(client)
                case "checkpoint":
                    self.call(client, "checkpoint", None)

    @rule(data=st.data(), statement=st.integers(1, 12))
    def the_next_call_will_die(self, data: st.DataObject, statement: int) -> None:
        self.client(data).die_at = statement

    def kill(self, client: Client) -> None:
        self.tally["kills between calls"] += client.is_alive
        self.gone += client.workers
        client.kill()

    @rule(seconds=st.sampled_from((1, 5, 60, 3600, -1, -60, -3600)), is_clock_set=st.booleans())
    def time_passes(self, seconds: int, is_clock_set: bool) -> None:
        """It passes, or somebody sets the clock: forward or back."""
        self.now_s += seconds if is_clock_set else abs(seconds)

    # Rules: submitters

    @rule(
        data=st.data(),
        count=st.sampled_from((1, 1, 1, 2, 3)),
        durable=st.booleans(),
        delay_s=st.sampled_from((None, None, None, -5, 0, 1, 60)),
        priorities=st.lists(st.sampled_from((0, 10, 10, 20)), min_size=3, max_size=3),
        queue=st.sampled_from(("default", "default", *QUEUES)),
        pool=st.sampled_from(("thread", "thread", *POOLS)),
        max_retries=st.integers(0, 2),
        unique=st.none() | UNIQUE,
        is_child=st.sampled_from((False, True)),
        limit_key=st.sampled_from((None, None, "a", *KEYS)),
    )
    def submit(
        self,
        data: st.DataObject,
        count: int,
        durable: bool,
        delay_s: int | None,
        priorities: list[int],
        queue: str,
        pool: str,
        max_retries: int,
        unique: dict[str, Any] | None,
        is_child: bool,
        limit_key: str | None,
    ) -> None:
        facts: dict[str, Any] = {"queue": queue, "pool": pool, "durable": durable, "max_retries": max_retries}
        if is_child and self.model.tasks:
            parents = st.sampled_from(sorted(self.model.tasks)[-8:])
            needs = st.dictionaries(parents, st.sampled_from(("success", "success", "any")), min_size=1, max_size=2)
            facts["after"] = data.draw(needs)
            self.tally["children"] += count
        ids = self.new_ids(count)
        facts["limit_key"] = limit_key
        if unique is None:
            self.send(data, ids, priorities, delay_s=delay_s, **facts)
            return
        for task_id, priority in zip(ids, priorities, strict=False):
            self.send_unique(data, {"id": task_id, "priority": priority, "unique": unique, **facts}, delay_s)

    @precondition(lambda self: any(client.workers for client in self.clients))
    @rule(data=st.data(), queue=st.sampled_from(QUEUES), priority=st.integers(0, 2))
    def submit_beside_a_worker(self, data: st.DataObject, queue: str, priority: int) -> None:
        """One task, the usual case of an application with its own worker."""
        facts = {**PLAIN, "queue": queue, "durable": False}
        del facts["priority"]
        self.send(data, self.new_ids(1), [priority], delay_s=None, **facts)

    @rule(data=st.data(), key=st.sampled_from(KEYS), queue=st.sampled_from(QUEUES), priority=st.integers(9, 11))
    def submit_for_a_limit_key(self, data: st.DataObject, key: str, queue: str, priority: int) -> None:
        """Some tasks of which one may run, in one line or in both."""
        facts = {**PLAIN, "queue": queue, "limit_key": key}
        del facts["priority"]
        self.send(data, self.new_ids(3), [priority, 10, 11], delay_s=None, **facts)

    def send(
        self, data: st.DataObject, ids: list[str], priorities: list[int], *, delay_s: int | None, **facts: Any
    ) -> None:
        client = self.client(data)
        due_s = None if delay_s is None else self.now_s + delay_s
        if due_s is not None and self.now_s < due_s <= client.latest_s:
            due_s = None  # due or not, by the process's own time: both are right
        tasks = [
            {"id": task_id, "priority": priority, "due_s": due_s, **facts}
            for task_id, priority in zip(ids, priorities, strict=False)
        ]
        after = self.model.copy()
        for task in tasks:
            after.submit(task, self.now_of(client))
        is_plain = len(ids) == 1 and ids[0] not in self.model.tasks and "after" not in facts
        if is_plain and client.workers and client.latest_s <= self.now_s:
            self.send_with_a_seat(data, client, tasks, after)
        else:
            answer = {"led_to": ids, "claim": None}
            self.try_to(client, "submit", answer, after, tasks=tasks, seat=None, is_taken=False)

    def send_with_a_seat(
        self, data: st.DataObject, client: Client, tasks: list[dict[str, Any]], waiting: Model
    ) -> None:
        """A worker of the same process has a free slot: the task may be claimed at once, if it is first in its line."""
        worker = data.draw(st.sampled_from(client.workers))
        is_taken = data.draw(st.booleans())
        (task,) = tasks
        running = waiting.copy()
        outcomes = [waiting]
        is_legal = waiting.tasks[task["id"]].status == "pending" and running.claim_at_once(
            task["id"], worker, self.now_s
        )
        if is_legal:
            returned = running.copy()
            returned.tasks[task["id"]].status, returned.tasks[task["id"]].owner = "pending", None
            outcomes += [running] if is_taken else [running, returned]
        with contextlib.suppress(Died):
            answer = self.call(client, "submit", ..., *outcomes, tasks=tasks, seat=worker, is_taken=is_taken)
            assert answer is not None, "it has answered before it knew what to say"
            claim = answer["claim"]
            assert answer["led_to"] == [task["id"]]
            if claim is None:
                self.model = waiting
            else:
                assert is_legal, f"claimed out of turn: {task}"
                self.tally["claimed at once"] += 1
                self.take(claim, worker, 0)

    def send_unique(self, data: st.DataObject, task: dict[str, Any], delay_s: int | None) -> None:
        """It makes a task, or leads to the one that holds the key, which it may replace."""
        client = self.client(data)
        if client.latest_s > self.now_s:  # by its own time a key may be held still or not: both are right
            return
        task["due_s"] = None if delay_s is None else self.now_s + delay_s
        after = self.model.copy()
        try:
            led_to = after.submit_unique(task, self.now_s)
        except Conflict as conflict:
            after, answer = self.model, {"conflict": str(conflict)}
        else:
            answer = {"led_to": [led_to], "claim": None}
            self.tally["led to another task"] += led_to != task["id"]
        self.try_to(client, "submit", answer, after, tasks=[task], seat=None, is_taken=False)

    # Rules: workers

    @rule(
        data=st.data(),
        rooms=st.fixed_dictionaries({"thread": st.integers(1, 3)}, optional={"process": st.integers(1, 2)}),
        queues=st.sampled_from((None, None, None, ["mail"], [])),
    )
    def work(self, data: st.DataObject, rooms: dict[str, int], queues: list[str] | None) -> None:
        """One pass of a worker: what ended, what was lost long ago, and new claims, in one transaction."""
        client, worker = self.worker(data)
        own = [claim for claim in self.claims if claim.owner == worker]
        ended = data.draw(st.lists(st.sampled_from(own[-6:]), max_size=3)) if own else []
        self.exchange(client, worker, [self.end(data, claim) for claim in ended], rooms, queues)

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        self.exchange(*self.worker(data), [], {"thread": 2, "process": 2}, None)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), is_foreign=st.sampled_from((True, False, False)))
    def settle(self, data: st.DataObject, is_foreign: bool) -> None:
        """Any claim that ever was, by its owner or in a stranger's name: only a held one is recorded."""
        end = self.end(data, self.some_claim(data), "f" * 32 if is_foreign else None)
        self.exchange(self.client(data), None, [end], {}, None)

    def end(self, data: st.DataObject, claim: Held, owner: str | None = None) -> tuple[Held, str, int, str | None]:
        outcome = data.draw(st.sampled_from(list(AttemptOutcome))).value
        return claim, outcome, data.draw(st.sampled_from((0, 1, 60))), owner

    def exchange(
        self,
        client: Client,
        worker: str | None,
        ended: list[tuple[Held, str, int, str | None]],
        rooms: dict[str, int],
        queues: list[str] | None,
    ) -> None:
        after = self.model.copy()
        recorded = [after.settle(*end, self.now_s) for end in ended]
        claimed = []
        if worker is not None:
            after.promote(self.now_s)
            failures = {task_id: task.failures for task_id, task in after.tasks.items()}
            claimed = after.claim(worker, rooms, queues)
            held_up = [
                task for task in after.tasks.values() if task.status == "pending" and after.room(task.limit_key) < 1
            ]
            self.tally["held up by a limit key"] += len(held_up)
        said = [
            {"blob": self.blobs[claim.number], "outcome": outcome, "wait_s": wait_s, "owner": owner}
            for claim, outcome, wait_s, owner in ended
        ]
        with contextlib.suppress(Died):
            value = self.call(client, "exchange", ..., after, ended=said, worker=worker, free=rooms, queues=queues)
            assert value["recorded"] == recorded, f"recorded are {value['recorded']} instead of {recorded}"
            found = [(claim["id"], claim["attempt"]) for claim in value["claims"]]
            assert found == claimed, f"claimed are {found} instead of {claimed}"
            self.tally["settled"] += sum(recorded)
            self.tally["refused"] += len(recorded) - sum(recorded)
            self.tally["claimed"] += len(claimed)
            for claim in value["claims"]:
                self.take(claim, str(worker), failures[claim["id"]])

    def take(self, claim: dict[str, Any], worker: str, failures: int) -> None:
        self.claims.append(Held(claim["id"], claim["attempt"], worker, failures, len(self.claims)))
        self.blobs.append(claim["blob"])

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), name=st.sampled_from(("give_back", "record_progress")))
    def give_back_or_report(self, data: st.DataObject, name: str) -> None:
        """Two claims that ever were: what is held no longer is left alone."""
        client = self.client(data)
        if self.model.has_waiting and client.latest_s > self.now_s:  # whether what is released is due is not known
            return
        claims = [self.some_claim(data) for _ in range(2)]
        after = self.model.copy()
        for claim in claims:
            if name == "give_back":
                after.give_back(claim, self.now_of(client))
            elif (task := after.holder(claim)) is not None:
                task.progress = claim.attempt
        self.try_to(client, name, None, after, blobs=[self.blobs[claim.number] for claim in claims])

    def some_claim(self, data: st.DataObject) -> Held:
        """Return a claim that holds its task, one whose task another claim holds by now, or any that ever was."""
        held = [claim for claim in self.claims if self.model.holder(claim)]
        running = {claim.id for claim in held}
        lost = [claim for claim in self.claims if claim.id in running and claim not in held]
        chosen = data.draw(st.sampled_from(("held", "lost", "any")))
        return data.draw(st.sampled_from({"held": held, "lost": lost}.get(chosen) or self.claims))

    def rescue(self, client: Client, worker: str) -> None:
        """The dead are rescued one by one, in the order of their ids; the living are not robbed."""
        outcomes = [self.model]
        rescued: list[str] = []
        for dead in sorted(self.gone):
            outcomes.append(outcomes[-1].copy())
            rescued += outcomes[-1].rescue(dead, self.now_s)
        self.call(client, "rescue", sorted(rescued), *outcomes[1:], worker=worker)
        self.tally["rescued"] += len(rescued)
        self.gone.clear()
        with reading(self.path) as connection:
            known = {worker for (worker,) in connection.execute("SELECT id FROM worker")}
        living = {worker for client in self.clients for worker in client.workers}
        assert known == living, "the dead are not forgotten, or the living are"

    # Rules: people

    @rule(
        data=st.data(), name=st.sampled_from(("cancel", "retry", "retry")), is_any=st.sampled_from((False, False, True))
    )
    def cancel_or_retry(self, data: st.DataObject, name: str, is_any: bool) -> None:
        """A task that can be, or any that ever was."""
        tasks = self.model.tasks.items()
        able = [each for each, task in tasks if TaskStatus(task.status).is_finished == (name == "retry")]
        task_id = data.draw(st.sampled_from(self.ids if is_any else able or self.ids))
        after = self.model.copy()
        client = self.client(data)
        if self.model.has_waiting and client.latest_s > self.now_s:  # as above
            return
        try:
            expected = getattr(after, name)(task_id, self.now_of(client))
        except Conflict as conflict:
            expected = {"conflict": str(conflict)}
            self.tally["retries refused"] += 1
        self.try_to(client, name, expected, after, task=task_id)

    @rule(
        data=st.data(),
        name=st.sampled_from(("submit again", "pause", "resume", "delete", "limit a key")),
        queue=st.sampled_from(QUEUES),
    )
    def somebody(self, data: st.DataObject, name: str, queue: str) -> None:
        after = self.model.copy()
        match name:
            case "submit again":  # an id that is stored stays as it is; one that was deleted is free
                facts = {**PLAIN, "queue": queue, "delay_s": None}
                del facts["priority"]
                self.send(data, [data.draw(st.sampled_from(self.ids))], [10], **facts)
            case "limit a key":
                key, concurrency = data.draw(st.sampled_from(KEYS)), data.draw(st.integers(1, 3))
                after.limit_key(key, concurrency)
                self.try_to(self.client(data), "limit_key", None, after, key=key, concurrency=concurrency)
            case "pause" | "resume":
                is_changed = (queue in after.paused) != (name == "pause")
                (after.paused.add if name == "pause" else after.paused.discard)(queue)
                self.try_to(self.client(data), "set_paused", is_changed, after, queue=queue, paused=name == "pause")
            case "delete":
                before_s = self.now_s - data.draw(st.sampled_from((-1, 0, 5, 60)))
                expected = after.delete_finished(before_s)
                self.try_to(self.client(data), "delete_finished", expected, after, before_s=before_s)

    # Invariants

    @invariant()
    def everything_is_as_it_must_be(self) -> None:
        if self.path.exists():
            self.steps += 1
            self.tally["steps"] += 1
            self.the_file_is_as_the_model_says()
            self.users_see_what_is_in_the_file()
            self.every_single_change_was_legal_and_every_life_ends_once()

    def the_file_is_as_the_model_says(self) -> None:
        found = self.read()
        assert (reason := self.model.why_not(found)) is None, reason
        self.rows = found.rows
        self.model.learn(self.rows)

    def users_see_what_is_in_the_file(self) -> None:
        """Asked of the two clients in turn."""
        client = self.clients[self.steps % 2]
        if not client.is_alive or client.die_at is not None:
            return
        seen = client.call("look", self.now_s)
        counts = Counter(task.status for task in self.model.tasks.values())
        assert seen["counts"] == {status.value: counts[status.value] for status in TaskStatus}
        assert set(seen["paused"]) == self.model.paused
        stopping: dict[str, list[str]] = {worker: [] for worker in client.workers}
        for task_id, task in sorted(self.model.tasks.items()):
            if task.is_cancelling and task.owner in stopping:
                stopping[task.owner].append(task_id)
        assert seen["cancel"] == stopping

    def every_single_change_was_legal_and_every_life_ends_once(self) -> None:
        """By the audit that a trigger keeps, and by the attempts of every finished task."""
        with reading(self.path) as connection:
            changes = connection.execute("SELECT task, old, new FROM audit").fetchall()
        illegal = {change for change in changes if (TaskStatus(change[1]), TaskStatus(change[2])) not in TRANSITIONS}
        assert not illegal
        ends = Counter(task_id for task_id, _, new in changes if TaskStatus(new) in FINISHED)
        assert ends == self.model.ends, "a task reached a final status twice in one life, or not at all"
        for task_id, row in self.rows.items():
            numbers = [number for number, *_ in row.attempts]
            assert numbers == sorted(set(numbers))
            assert all(number <= row.attempt for number in numbers)
            if row.status in ("completed", "failed"):
                last, outcome, _ = row.attempts[-1]
                wanted = ("completed",) if row.status == "completed" else ("failed", "timed_out")
                assert last == row.attempt, task_id
                assert outcome in wanted, task_id

    def teardown(self) -> None:
        is_sound = sys.exc_info()[0] is None  # else what follows would hide it
        try:
            if is_sound and self.path.exists():
                self.everything_can_be_finished()
                self.the_file_is_sound()
        finally:
            for client in self.clients:
                client.kill()
            self.folder.cleanup()

    def everything_can_be_finished(self) -> None:
        """A new client with the tasks of the dead, in the end, far in the future: all run in order, none is left."""
        for client in self.clients:
            self.gone += client.workers
            client.kill()
        self.now_s = END_S
        client = self.clients[0]
        client.open(self.path, self.now_s)
        worker = self.call(client, "register", ...)
        client.workers.append(worker)
        after = self.model.copy()
        rescued = [task_id for dead in self.gone for task_id in after.rescue(dead, self.now_s)]
        self.call(client, "rescue", sorted(rescued), after, worker=worker)
        for queue in sorted(self.model.paused):
            after = self.model.copy()
            after.paused.discard(queue)
            self.call(client, "set_paused", True, after, queue=queue, paused=False)
        held: list[Held] = []
        while True:
            before = len(self.claims)
            ended: list[tuple[Held, str, int, str | None]] = [(claim, "completed", 0, None) for claim in held]
            self.exchange(client, worker, ended, {"thread": 2, "process": 2}, None)
            held = self.claims[before:]
            if not held:
                break
        self.the_file_is_as_the_model_says()
        assert all(TaskStatus(row.status).is_finished for row in self.rows.values())

    def the_file_is_sound(self) -> None:
        for client in self.clients:
            client.kill()
        with reading(self.path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


@contextlib.contextmanager
def machine(fault: str | None = None) -> Iterator[type[StoreMachine]]:
    with forks(fault) as control:
        yield type("StoreMachine", (StoreMachine,), {"control": control, "tally": Counter()})


@pytest.mark.timeout(0 if EXAMPLES else 900)  # a failing example is made smaller, which takes minutes
def test_the_store_is_as_the_model_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Submits, claims, ends, cancels, retries, pauses, deletions, clock steps, crashes and rescues in any order."""
    with machine() as store:
        run_state_machine_as_test(store, settings=SETTINGS)
    with capsys.disabled():
        figures = ", ".join(f"{count} {what}" for what, count in sorted(store.tally.items()))
        sys.stdout.write(f"\nmodel and store agree: {SETTINGS.max_examples} examples, {figures}\n")
    rare = {"claimed at once", "deaths in a call", "kills between calls", "refused", "rescued"}
    rare |= {"led to another task", "held up by a limit key"} | ({"retries refused"} if EXAMPLES else set())
    assert rare <= store.tally.keys(), "the rules do not reach what they are for"


FAULTS = ("no fence", "no priority", "answers too early", "a limit key is not minded")
MORE_FAULTS = (
    "no owner in the fence",
    "no due time",
    "the living are robbed",
    "claimed out of turn",
    "paused queues are open",
    "a retry has no retries",
    "a request to cancel is forgotten",
    "a unique key is nobody's",
    "a replacement is forgotten",
    "who waits is released by the first end",
    "a failed parent is as good as any",
    "a retry opens nobody",
    "a task does not enter its limit key",
    "a limit key is passed at a submit",
)
"""For the long form only: some take some hundred examples."""


@pytest.mark.parametrize("fault", FAULTS + (MORE_FAULTS if EXAMPLES else ()))
def test_the_machine_finds_a_planted_fault(fault: str) -> None:
    """Negative control: each is found by the same rules, in examples of its own."""
    with machine(fault) as store, pytest.raises(AssertionError):
        run_state_machine_as_test(store, settings=FAULT_SETTINGS)
    assert store.tally["steps"] > 0


def test_a_claim_of_a_deleted_task_is_never_another_tasks_claim(tmp_path: Path) -> None:
    """The fence of the old claim does not fit a task that was submitted later."""
    with forks() as control:
        client = Client(control)
        client.open(tmp_path / "tasks.db", 0)
        worker = client.call("register", 0)
        claims = []
        for number in (1, 2):
            task = {"id": f"{number:032x}", "due_s": None, **PLAIN}
            client.call("submit", number, tasks=[task], seat=None, is_taken=False)
            passed = client.call("exchange", number, ended=[], worker=worker, free={"thread": 1}, queues=None)
            claims += passed["claims"]
            ended = {"blob": claims[0]["blob"], "outcome": "completed", "wait_s": 0, "owner": None}
            said = client.call("exchange", number, ended=[ended], worker=None, free={}, queues=None)
            assert said["recorded"] == [number == 1], "the end of a deleted task is recorded as another task's"
            client.call("delete_finished", number, before_s=number + 1)
        client.kill()
