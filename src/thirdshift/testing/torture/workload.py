"""What a victim does while something fails under it: every kind of write, each call noted before and after.

The log is all that anybody was told (``checker.calls_of``); it leaves the process by ``send``, which no harness breaks.
A call that fails is not made again, and those that need it are left out: every task has its own story.
"""

import sqlite3
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from thirdshift.core import codec
from thirdshift.core.engine import ClaimRequest, Registration, TaskFilter
from thirdshift.core.errors import OutcomeUnknown, StoreError
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import (
    AttemptOutcome,
    Claim,
    NewTask,
    OnConflict,
    PoolKind,
    TaskError,
    TaskId,
    TaskSpec,
    Traces,
    UniqueKey,
)
from thirdshift.engines.sqlite import SQLiteEngine, writer
from thirdshift.testing.clock import FakeClock

T = TypeVar("T")
Say = Callable[[dict[str, Any]], None]

FILE_NAME = "tasks.db"
EARLY = "acknowledges before it commits"
BLIND = "takes a failed commit for a good one"
FAULTS = (EARLY, BLIND)
_LONG = codec.encode_arguments((["a long argument"] * 600,), {})
"""Arguments of several pages, so that a commit needs room."""
_SHORT = codec.encode_arguments((1,), {})


@contextmanager
def planted(fault: str | None) -> Iterator[None]:
    """Plant *fault* while the block runs."""
    if fault != BLIND:
        yield
        return
    with patch.object(writer.Writer, "_end", _end_blindly):
        yield


def _end_blindly(self: writer.Writer, _live: Sequence[object]) -> None:
    try:
        self.connection.execute("COMMIT")
    except sqlite3.Error:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")


def task_id(number: int) -> TaskId:
    """Return the id of the victim's task *number*."""
    return TaskId(f"{number:032x}")


class Workload:
    """The calls of one victim, in the folder *folder*; *say* takes the lines of its log."""

    def __init__(self, folder: Path, say: Say, fault: str | None) -> None:
        self._path = folder / FILE_NAME
        self._say = say
        self._fault = fault
        self._clock = FakeClock()
        self._calls = 0
        self._claims: dict[str, Claim] = {}
        self._engine: SQLiteEngine
        self._tasks = 0
        self.is_open = False

    def run(self) -> None:
        """Make every call."""
        self.open()
        if not self.is_open:
            self.open()  # once more, as people do
        if self.is_open:
            self._submit_all()
            self._work()
            self._manage()
            self._rescue()
            self._keep_small()

    def open(self) -> None:
        """Open the store."""
        engine = self._call("open", {}, lambda: SQLiteEngine(self._path, self._clock))
        if engine is not None:
            self._engine, self.is_open = engine, True

    def probe(self) -> None:
        """Submit one more task, when what was wrong is over."""
        if not self.is_open:
            self.open()
        if self.is_open:
            self._submit(1)

    def close(self) -> None:
        """Close the store."""
        if self.is_open:
            self._call("close", {}, self._engine.close)

    # The calls

    def _submit_all(self) -> None:
        self._submit(1)
        self._submit(1, durable=False)
        self._submit(6)
        self._submit(3, arguments=_LONG)
        self._submit(1, run_at=self._clock.now() + timedelta(hours=1))
        unique = UniqueKey(key="key", period_s=60.0)
        self._submit(1, unique=unique)
        replaced = UniqueKey(key="key", on_conflict=OnConflict.REPLACE)
        self._submit(1, unique=replaced, run_at=self._clock.now() + timedelta(seconds=5))
        self._read()

    def _work(self) -> None:
        worker = self._register("one")
        if worker is None:
            return
        self._claim(worker, 6)
        claims = list(self._claims.values())
        for slot, claim in enumerate(claims[:4]):
            worker.enter_slot(slot, claim)
        for claim in claims[:2]:
            facts = {"task": claim.id, "name": "one"}
            self._call("step", facts, lambda: self._engine.record_step(claim, "one", "hash", b"[1,1]"))  # noqa: B023
            self._call("progress", {}, lambda: self._engine.record_progress([(claim, {"done": 1})]))  # noqa: B023
        outcomes = (AttemptOutcome.COMPLETED, AttemptOutcome.FAILED, AttemptOutcome.SNOOZED, AttemptOutcome.INTERRUPTED)
        for claim, outcome in zip(claims, outcomes, strict=False):
            self._settle(worker, [claim], outcome, and_claim=int(outcome is AttemptOutcome.SNOOZED))
        self._settle(worker, claims[4:6], AttemptOutcome.COMPLETED)
        self._read()

    def _manage(self) -> None:
        self._change("cancel", task_id(1), self._engine.cancel, ("cancelled", "cancel_requested"))
        self._change("cancel", task_id(12), self._engine.cancel, ("cancelled", "cancel_requested"))
        for number in (3, 4, 5):
            if self._status(task_id(number)) is TaskStatus.COMPLETED:
                self._change("retry", task_id(number), self._engine.retry, ("retried",))
                break
        self._call("pause", {"queue": "paused"}, lambda: self._engine.set_paused("paused", True))
        self._submit(1, queue="paused")
        bulk = self._submit(4, queue="bulk")
        self._call("cancel_all", {}, lambda: self._engine.cancel_all(TaskFilter(queue="bulk")))
        if all(self._status(task) is TaskStatus.CANCELLED for task in bulk):
            facts = {"tasks": bulk}
            self._call("delete", facts, lambda: self._engine.delete_all(TaskFilter(queue="bulk")))

    def _rescue(self) -> None:
        """Another worker claims and goes away; the next one takes over."""
        self._submit(3)
        other = self._register("two")
        if other is None:
            return
        self._claim(other, 2)
        self._call("leave", {}, other.close)
        another = self._register("three")
        if another is not None:
            self._call("rescue", {}, lambda: self._engine.rescue(another.id))
            self._claim(another, 3)
            held = [claim for claim in self._claims.values() if claim.owner == another.id]
            self._settle(another, held, AttemptOutcome.TIMED_OUT)

    def _keep_small(self) -> None:
        for _ in range(2):
            self._call("checkpoint", {}, self._checkpoint)
            self._submit(2, arguments=_LONG)
        self._call("vacuum", {}, self._engine.vacuum)
        self._submit(1)
        self._read()

    # How they are made

    def _call(self, what: str, facts: dict[str, Any], call: Callable[[], T]) -> T | None:
        """Make *call*, and note what came of it; ``None`` when it failed."""
        self._calls += 1
        number = self._calls
        self._say({"begin": number, "what": what, "facts": facts})
        is_early = self._fault == EARLY and what in ("submit", "settle")
        if is_early:
            self._say({"answer": number, "how": "done"})
        answer: T | None = None
        try:
            answer = call()
            how = "no" if answer is False else "done"
        except (OutcomeUnknown, MemoryError):
            how = "unknown"
        except (StoreError, OSError):
            how = "refused"
        except Exception as error:  # noqa: BLE001  # it goes into the log, and is judged
            how = "unknown"
            if not _is_about_memory(error):
                self._say({"wrong": f"{what} raised {error!r}", "where": traceback.format_exc()[-1500:]})
        if not is_early:
            self._say({"answer": number, "how": how})
        return answer

    def _submit(self, count: int, *, arguments: bytes = _SHORT, **spec: Any) -> list[str]:
        ids = [task_id(self._tasks + number) for number in range(1, count + 1)]
        self._tasks += count
        whole = TaskSpec(
            **{
                "name": "echo",
                "function": "thirdshift.testing.functions:echo",
                "queue": "default",
                "pool": PoolKind.THREAD,
                "max_retries": 2,
                **spec,
            }
        )
        tasks = [NewTask(task, arguments, whole) for task in ids]
        is_led_elsewhere = whole.unique is not None and whole.unique.on_conflict is OnConflict.REPLACE
        facts = {"tasks": [], "perhaps": ids} if is_led_elsewhere else {"tasks": ids}
        self._call("submit", facts, lambda: self._engine.submit(tasks))
        return list(ids)

    def _register(self, name: str) -> Registration | None:
        return self._call("register", {}, lambda: self._engine.register(slots=4, name=name))

    def _claim(self, worker: Registration, free: int) -> None:
        request = ClaimRequest(owner=worker.id, free={PoolKind.THREAD: free})
        exchange = self._call("claim", {}, lambda: self._engine.exchange([], request))
        self._claims = {} if exchange is None else {claim.id: claim for claim in exchange.claims}

    def _settle(
        self, worker: Registration, claims: Sequence[Claim], outcome: AttemptOutcome, *, and_claim: int = 0
    ) -> None:
        if not claims:
            return
        now = self._clock.now()
        is_error = outcome in (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)
        ending = Ending(
            outcome,
            now,
            now,
            encoded_result=b"[1,1]" if outcome is AttemptOutcome.COMPLETED else None,
            error=TaskError(type="E", message="m", where=("m:f",)) if is_error else None,
            after_s=60.0 if outcome is AttemptOutcome.SNOOZED else None,
            traces=Traces(stdout="said " * 500),
        )
        settlements = [settle(claim, ending, 60.0) for claim in claims]
        request = ClaimRequest(owner=worker.id, free={PoolKind.THREAD: and_claim}) if and_claim else None
        facts = {"ended": [(claim.id, claim.attempt, outcome.value) for claim in claims]}
        self._call("settle", facts, lambda: all(self._engine.exchange(settlements, request).recorded))

    def _change(self, what: str, task: str, change: Callable[[str], bool], kinds: Sequence[str]) -> None:
        self._call(what, {"tasks": [task], "kinds": list(kinds)}, lambda: change(task))

    def _status(self, task: str) -> TaskStatus | None:
        return self._call("status", {}, lambda: self._engine.status(task))

    def _read(self) -> None:
        """What was stored is found, by whoever asks."""
        self._call("read", {}, lambda: [self._engine.get(task.id) for task in self._engine.find(TaskFilter(limit=100))])
        self._call("read", {}, lambda: (self._engine.counts(), self._engine.queues(), self._engine.workers()))

    def _checkpoint(self) -> None:
        """Make a checkpoint as the engine does, but now; it fails quietly there too."""
        try:
            self._engine._checkpointer.checkpoint()  # noqa: SLF001
        except (sqlite3.Error, StoreError, OSError):
            return


def _is_about_memory(error: Exception) -> bool:
    """Return whether *error* says in other words that there was no memory."""
    return "can't start new thread" in str(error) or isinstance(error.__cause__ or error.__context__, MemoryError)


def go_on(path: Path) -> None:
    """Do as the next worker does: rescue what the dead one held, finish everything, and one new task."""
    engine = SQLiteEngine(path, FakeClock(datetime(2100, 1, 1, tzinfo=UTC)))
    try:
        for queue in engine.queues():
            engine.set_paused(queue.name, False)
        worker = engine.register(slots=1)
        engine.rescue(worker.id)
        spec = TaskSpec(name="echo", function="m:f", queue="default", pool=PoolKind.THREAD)
        engine.submit([NewTask(task_id(2**64), _SHORT, spec)])
        request = ClaimRequest(owner=worker.id, free={PoolKind.THREAD: 10_000})
        claims = engine.exchange((), request).claims
        while claims:
            ends = [
                settle(
                    claim,
                    Ending(AttemptOutcome.COMPLETED, claim.claimed_at, claim.claimed_at, encoded_result=b"1"),
                    0.0,
                )
                for claim in claims
            ]
            claims = engine.exchange(ends, request).claims
        worker.close()
    finally:
        engine.close()
