"""The victim of crashes at statements: forks, works through a list of operations, and kills itself on the way.

Reads one JSON line for each case (folder, the statement to die at, the planted fault or none, and whether it shall only
open the file that is there), answers with one line. It starts no thread before it forks.
"""

import functools
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from thirdshift.core.dependency import Dependency, Need
from thirdshift.core.engine import ClaimRequest, Registration, TaskFilter
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.pruning import Limit
from thirdshift.core.schedule import Schedule
from thirdshift.core.schedule_store import NewSchedule
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, Claim, OnConflict, PoolKind, TaskError, UniqueKey
from thirdshift.engines.sqlite import SQLiteEngine, connection
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.tasks import new_task
from thirdshift.testing.torture import faults

NEVER = 0
FILE_NAME = "tasks.db"
Step = tuple[str, Callable[[], Any]]


def task_id(name: str) -> str:
    return f"{ord(name):032x}"


def after(*names: str) -> tuple[Dependency, ...]:
    return tuple(Dependency(task_id(name)) for name in names)


class Workload:
    """Every kind of write, each one transaction."""

    def __init__(self, engine: SQLiteEngine, clock: FakeClock, fault: str | None) -> None:
        self.engine = engine
        self.fault = fault
        self.clock = clock
        self.claims: dict[str, Claim] = {}
        self.lost: list[Claim] = []
        """What the other worker held when it went away; the worker has it now."""
        self.worker: Registration
        self.other: Registration

    def steps(self) -> Iterator[Step]:
        yield "submit", lambda: self.submit("a")
        yield "submit relaxed", lambda: self.submit("b", durable=False)
        yield "submit many", lambda: self.submit("cdefgh")
        yield "submit scheduled", lambda: self.submit("s", run_at=self.clock.now() + timedelta(hours=1))
        yield "submit again", lambda: self.submit("a")
        yield "register", lambda: self.register("worker")
        yield "claim", lambda: self.claim(self.worker, 4)
        yield "progress", lambda: self.engine.record_progress([(self.claims["a"], {"done": 1})])
        yield "step", lambda: self.engine.record_step(self.claims["a"], "one", "hash", b"[1,1]")
        yield "complete", lambda: self.end("a", AttemptOutcome.COMPLETED, b"[1,1]")
        yield "fail, retry later", lambda: self.end("b", AttemptOutcome.FAILED)
        yield "request cancel", lambda: self.engine.cancel(task_id("c"))
        yield "complete cancelled", lambda: self.end("c", AttemptOutcome.COMPLETED, b"[1,1]")
        yield "fail, retry now", lambda: self.end("d", AttemptOutcome.TIMED_OUT, backoff_s=0.0)
        yield "cancel pending", lambda: self.engine.cancel(task_id("e"))
        yield "retry by hand", lambda: self.engine.retry(task_id("a"))
        yield "promote and claim", lambda: self.wait_and(3_600, lambda: self.claim(self.worker, 2))
        yield "give back", lambda: self.engine.give_back([self.claims["b"]])
        yield "settle and claim", lambda: self.end("d", AttemptOutcome.SNOOZED, and_claim=3)
        yield "register other", lambda: self.register("other")
        yield "other claims", self.claim_what_is_lost
        yield "other is gone", self.close_other
        yield "rescue", lambda: self.engine.rescue(self.worker.id)
        yield "claim again", lambda: self.claim(self.worker, 3)
        yield "settle too late", self.settle_too_late
        yield "give back too late", lambda: self.engine.give_back(self.lost)
        yield "pause", lambda: self.engine.set_paused("default", True)
        yield "interrupt", lambda: self.end("f", AttemptOutcome.INTERRUPTED)
        yield "resume", lambda: self.engine.set_paused("default", False)
        yield "claim what is not there", lambda: self.claim(self.worker, 2)
        yield "decline", self.decline
        yield "find", lambda: self.engine.found(self.worker.id, [self.claims["f"].function])
        yield "cancel all", lambda: self.engine.cancel_all(TaskFilter(statuses=frozenset({TaskStatus.PENDING})))
        yield "prune", lambda: self.engine.prune({TaskStatus.CANCELLED: Limit(rows=1)})
        yield "retry all", lambda: self.engine.retry_all(TaskFilter(statuses=frozenset({TaskStatus.CANCELLED})))
        yield "delete all", lambda: self.engine.delete_all(TaskFilter(queue="default"))
        yield "delete", lambda: self.engine.delete_finished(before=self.clock.now() + timedelta(days=1))
        key = UniqueKey(key="k", period_s=60.0)
        yield "submit unique", lambda: self.submit("t", unique=key)
        yield "keep", lambda: self.submit("u", unique=key)
        later = {"unique": replace(key, on_conflict=OnConflict.REPLACE), "name": "later", "queue": "new"}
        yield "replace", lambda: self.submit("v", run_at=self.clock.now() + timedelta(seconds=30), **later)
        yield "cancel unique", lambda: self.engine.cancel(task_id("t"))
        yield "take an expired key", lambda: self.wait_and(60, lambda: self.submit("w", unique=key))
        yield from self.steps_of_a_graph()
        yield from self.steps_of_limit_keys()
        yield from self.steps_of_schedules()

    def steps_of_a_graph(self) -> Iterator[Step]:
        yield "submit a graph", self.submit_graph
        yield "claim a parent", lambda: self.claim(self.worker, 1)
        yield "complete a parent", lambda: self.end("A", AttemptOutcome.COMPLETED, b"[1,1]", and_claim=1)
        yield "cancel a parent", lambda: self.engine.cancel(task_id("P"))
        yield "retry a parent", lambda: self.engine.retry(task_id("P"))
        replaced = {"unique": UniqueKey(key="X", on_conflict=OnConflict.REPLACE)}
        yield "replace by one that waits", lambda: self.submit("Y", after=after("P"), **replaced)
        yield "submit below a parent", lambda: self.submit("HI", after=after("P"))
        yield "delete all but parents", lambda: self.engine.delete_all(TaskFilter())

    def steps_of_limit_keys(self) -> Iterator[Step]:
        yield "submit with a limit key", lambda: self.submit("012", limit_key="l", priority=50)
        yield "submit one with a limit key", lambda: self.submit("3", limit_key="l", priority=60)
        yield "limit a key", lambda: self.engine.limit_key("l", 2)
        yield "claim of a limit key", lambda: self.claim(self.worker, 4)
        yield "settle and claim of a limit key", lambda: self.end("3", AttemptOutcome.COMPLETED, b"[1,1]", and_claim=1)
        yield "unlimit a key", lambda: self.engine.limit_key("l", 1)
        yield "cancel of a limit key", lambda: self.engine.cancel(task_id("2"))

    def steps_of_schedules(self) -> Iterator[Step]:
        schedules = self.engine.schedules
        yield "put a schedule", lambda: self.put("skipping", overlap="skip")
        yield "put one that queues", lambda: self.put("queueing", overlap="queue")
        yield "put one that cancels", lambda: self.put("cancelling", overlap="cancel_previous")
        yield "fire", lambda: self.wait_and(2 * 3_600, schedules.tick)
        yield "run one that skips now", lambda: schedules.run_now(self.schedule("skipping"))
        yield "run one that queues now", lambda: schedules.run_now(self.schedule("queueing"))
        yield "run one that cancels now", lambda: schedules.run_now(self.schedule("cancelling"))
        yield "pause a schedule", lambda: schedules.set_paused(self.schedule("queueing"), True)
        yield "fire what was missed", lambda: self.wait_and(3 * 366 * 86_400, schedules.tick)
        yield "resume a schedule", lambda: schedules.set_paused(self.schedule("queueing"), False)
        yield "replace a schedule", lambda: self.put("queueing", overlap="skip")
        yield "end a schedule", lambda: schedules.end(self.schedule("skipping"))
        yield "delete a schedule", lambda: schedules.delete(self.schedule("cancelling"))

    def put(self, name: str, **rule: Any) -> None:
        """Store a schedule that fires once a year, so that no later look at the file meets it.

        Its id is the same in every run, for what is stored is compared with what another run has stored.
        """
        task, schedule_id = new_task(), name.encode().hex().zfill(32)
        schedule = Schedule(cron="0 3 1 1 *", missed="all", **rule)
        self.engine.schedules.put(
            NewSchedule(name=name, schedule=schedule, task=task.spec, arguments=task.arguments, id=schedule_id)
        )

    def schedule(self, name: str) -> str:
        found = self.engine.schedules.find(name)
        assert found is not None
        return found.id

    def submit(self, names: str, **changes: Any) -> None:
        self.engine.submit([new_task(id=task_id(name), max_retries=2, **changes) for name in names])

    def submit_graph(self) -> None:
        """A and P are parents; B and C, and X, wait for them, D for any end of C."""
        parents = [new_task(id=task_id("A"), priority=20), new_task(id=task_id("P"))]
        self.engine.submit(
            [
                *parents,
                new_task(id=task_id("B"), after=after("A")),
                new_task(id=task_id("C"), after=after("P")),
                new_task(id=task_id("D"), after=(Dependency(task_id("C"), Need.ANY),)),
                new_task(id=task_id("X"), after=after("A", "P"), unique=UniqueKey(key="X")),
            ]
        )

    def wait_and(self, seconds: float, then: Callable[[], object]) -> None:
        self.clock.advance(seconds)
        then()

    def register(self, name: str) -> None:
        setattr(self, name, self.engine.register(slots=4))

    def close_other(self) -> None:
        self.other.close()

    def claim(self, worker: Registration, free: int) -> None:
        claims = self.engine.exchange([], ClaimRequest(owner=worker.id, free={PoolKind.THREAD: free})).claims
        self.claims |= {chr(int(claim.id, 16)): claim for claim in claims}

    def claim_what_is_lost(self) -> None:
        self.claim(self.other, 3)
        self.lost = [claim for claim in self.claims.values() if claim.owner == self.other.id]

    def settle_too_late(self) -> None:
        """The tasks are another worker's by now: nothing is recorded."""
        assert self.lost
        now = self.clock.now()
        ending = Ending(AttemptOutcome.COMPLETED, now, now, b"[1,1]")
        exchange = self.engine.exchange([settle(claim, ending, 0.0) for claim in self.lost], None)
        assert self.fault is not None or not any(exchange.recorded)

    def decline(self) -> None:
        """Say of what runs that its function is not there."""
        running = [claim for claim in self.claims.values() if self.engine.status(claim.id) is TaskStatus.RUNNING]
        assert len(running) >= 2
        refusals = [(claim, TaskError(type="ModuleNotFoundError", message="m")) for claim in running]
        assert self.engine.decline(refusals, timedelta(hours=24)) == []

    def end(
        self,
        name: str,
        outcome: AttemptOutcome,
        result: bytes | None = None,
        backoff_s: float = 60.0,
        and_claim: int = 0,
    ) -> None:
        now = self.clock.now()
        error = TaskError(type="E", message="m", where=("m:f",)) if outcome is AttemptOutcome.FAILED else None
        claim = self.claims[name]
        ending = Ending(outcome, now, now, encoded_result=result, error=error)
        request = ClaimRequest(owner=self.worker.id, free={PoolKind.THREAD: and_claim}) if and_claim else None
        exchange = self.engine.exchange([settle(claim, ending, backoff_s)], request)
        assert list(exchange.recorded) == [True], name
        self.claims |= {chr(int(claim.id, 16)): claim for claim in exchange.claims}


class Suicide:
    """Counts the statements of a connection and dies at one of them, before it is run."""

    def __init__(self, die_at: int) -> None:
        self._die_at = die_at
        self.statements = 0

    def count(self, _statement: str) -> None:
        self.statements += 1
        if self.statements == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def work(folder: Path, suicide: Suicide, fault: str | None, acknowledge: Callable[[str], None]) -> None:
    """Do every step."""
    clock = FakeClock()
    engine = SQLiteEngine.shared(folder / FILE_NAME, clock=clock)
    engine._writer.connection.set_trace_callback(suicide.count)  # noqa: SLF001
    for name, step in Workload(engine, clock, fault).steps():
        if fault == EARLY:
            acknowledge(name)
        step()
        if fault != EARLY:
            acknowledge(name)


def open_file(folder: Path, suicide: Suicide, fault: str | None, acknowledge: Callable[[str], None]) -> None:
    """Open the file and bring it to the newest schema."""
    if fault == NO_TRANSACTION:
        sqlite3.connect = functools.partial(sqlite3.connect, factory=NoTransaction)  # type: ignore[assignment]
    connect = connection._connect  # noqa: SLF001

    def connect_counted(path: Path, mode: str) -> sqlite3.Connection:
        opened = connect(path, mode)
        if mode == "rw":
            opened.set_trace_callback(suicide.count)
        return opened

    connection._connect = connect_counted  # noqa: SLF001
    SQLiteEngine.shared(folder / FILE_NAME, clock=FakeClock())
    acknowledge("opened")


# The planted faults

EARLY = "acknowledges before it commits"
NO_FENCE = faults.NO_FENCE
NO_TRANSACTION = "has no transaction"


class NoTransaction(sqlite3.Connection):
    """Every statement is a transaction of its own."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute("SELECT 1" if sql in ("BEGIN IMMEDIATE", "COMMIT") else sql, *parameters)


def one_case(folder: Path, die_at: int, fault: str | None, only_open: bool) -> dict[str, Any]:
    """Fork a process that works until it dies; returns what it acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            suicide = Suicide(die_at)
            do = open_file if only_open else work
            with faults.planted(NO_FENCE if fault == NO_FENCE else None):
                do(folder, suicide, fault, lambda name: _write_line(writing, f"{suicide.statements} {name}"))
            os.write(writing, f"{suicide.statements}\n".encode())
            status = 0
        finally:
            os._exit(status)  # without closing anything
    os.close(writing)
    with open(reading, "rb") as acknowledged:
        lines = acknowledged.read().decode().splitlines()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0, "the workload itself failed"
    statements = None if killed else int(lines.pop())
    told = [line.partition(" ") for line in lines]
    return {
        "acknowledged": [name for _, _, name in told],
        "made": [int(count) for count, _, _ in told],
        "statements": statements,
    }


def _write_line(descriptor: int, line: str) -> None:
    os.write(descriptor, f"{line}\n".encode())


def main() -> None:
    for line in sys.stdin:
        case = json.loads(line)
        answer = one_case(Path(case["folder"]), case["die_at"], case["fault"], case["only_open"])
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
