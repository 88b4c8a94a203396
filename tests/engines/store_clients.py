"""The client processes of ``test_sqlite_stateful``: each has one engine and does what it is told, line by line.

This program forks a client for every socket that it is sent (it starts no thread before that, and opens no database
itself). A client answers each JSON line with one. Told to die, it kills itself (SIGKILL) at a statement of its next
call, or after the last one and before it answers: what a crash leaves is what a real one leaves.

All that the property test knows of the engine's calls stands here.
"""

import base64
import json
import os
import pickle
import re
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from thirdshift.core.dependency import Dependency, Need
from thirdshift.core.engine import ClaimRequest, Registration
from thirdshift.core.errors import ChangeRefused, DependencyCycle
from thirdshift.core.outcome import Ending, Settlement, settle
from thirdshift.core.task import AttemptOutcome, Claim, OnConflict, PoolKind, UniqueKey
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.host.lock import FileLock
from thirdshift.testing.clock import START, FakeClock
from thirdshift.testing.conformance import new_task

Facts = dict[str, Any]


class Client:
    """One engine on one file, and its workers."""

    def __init__(self, path: Path, at_s: int) -> None:
        self._clock = FakeClock()
        self._set_clock(at_s)
        self._left: int | None = None
        self.engine = SQLiteEngine.shared(path, clock=self._clock)
        self.engine._writer.connection.set_trace_callback(self._count)
        self._workers: dict[str, Registration] = {}
        self._seat: _Seat | None = None
        self.engine.on_submit(lambda _queue, _pool: self._seat)

    def call(self, said: Facts) -> Any:
        """Do one call, at a moment of the wall clock; returns its value as JSON can say it."""
        self._set_clock(said["at_s"])
        self._left = said["die_at"]
        method: Callable[..., Any] = getattr(self, said["call"])
        value = method(**said["with"])
        if self._left is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    def _count(self, _statement: str) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def _set_clock(self, at_s: int) -> None:
        self._clock.step(round((START - self._clock.now()).total_seconds()) + at_s)

    # The calls

    def submit(self, tasks: list[Facts], seat: str | None, is_taken: bool) -> Facts:
        """Submit, with a free slot of the worker *seat* if there is one; returns the claim that took it.

        And the ids of the tasks that the submit led to, or of the one that was in its way.
        """
        self._seat = None if seat is None else _Seat(seat, is_taken)
        try:
            led_to = list(self.engine.submit([_new_task(**task) for task in tasks]))
        except (ChangeRefused, DependencyCycle) as refusal:
            return {"conflict": refusal.task_id}
        is_free = self._seat is None or self._seat.claim is None
        return {"led_to": led_to, "claim": None if is_free else _told(self._seat.claim)}

    def register(self) -> str:
        worker = self.engine.register(slots=4)
        self._workers[worker.id] = worker
        return worker.id

    def deregister(self, worker: str) -> None:
        self._workers.pop(worker).close()

    def exchange(self, ended: list[Facts], worker: str | None, free: dict[str, int], queues: list[str] | None) -> Facts:
        request = None
        if worker is not None:
            wanted = None if queues is None else frozenset(queues)
            request = ClaimRequest(
                owner=worker, free={PoolKind(kind): room for kind, room in free.items()}, queues=wanted
            )
        exchange = self.engine.exchange([self._settlement(**one) for one in ended], request)
        return {
            "recorded": list(exchange.recorded),
            "claims": [_told(claim) for claim in exchange.claims],
        }

    def give_back(self, blobs: list[str]) -> None:
        self.engine.give_back([_unpacked(blob) for blob in blobs])

    def record_progress(self, blobs: list[str]) -> None:
        self.engine.record_progress([(_unpacked(blob), {"done": 1}) for blob in blobs])

    def rescue(self, worker: str) -> list[str]:
        return sorted(rescue.id for rescue in self.engine.rescue(worker))

    def cancel(self, task: str) -> bool:
        return self.engine.cancel(task)

    def retry(self, task: str) -> bool | Facts:
        try:
            return self.engine.retry(task)
        except ChangeRefused as refusal:
            return {"conflict": refusal.task_id}

    def set_paused(self, queue: str, paused: bool) -> bool:
        return self.engine.set_paused(queue, paused)

    def limit_key(self, key: str, concurrency: int) -> None:
        self.engine.limit_key(key, concurrency)

    def delete_finished(self, before_s: int) -> int:
        return self.engine.delete_finished(before=START + timedelta(seconds=before_s))

    def checkpoint(self) -> None:
        self.engine._checkpointer.checkpoint()

    def look(self) -> Facts:
        """What users see: the counts, the queues that are paused, and the tasks that each worker shall stop."""
        return {
            "counts": {status.value: count for status, count in self.engine.counts().items()},
            "paused": [queue.name for queue in self.engine.queues() if queue.paused_at is not None],
            "cancel": {worker: sorted(self.engine.cancel_requests(worker)) for worker in self._workers},
        }

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self.engine.close()

    def _settlement(self, blob: str, outcome: str, wait_s: int, owner: str | None) -> Settlement:
        now = self._clock.now()
        claim = _unpacked(blob)
        if owner is not None:
            claim = claim._replace(owner=owner)
        return _settlement_of(claim, AttemptOutcome(outcome), now, float(wait_s))


class _Seat:
    """A free slot of *owner*, which is given up before it can be used unless *is_taken*."""

    def __init__(self, owner: str, is_taken: bool) -> None:
        self.owner = owner
        self.claim: Claim | None = None
        self._is_taken = is_taken

    def take(self, claim: Claim) -> bool:
        self.claim = claim
        return self._is_taken

    def leave(self) -> None:
        self.claim = None


# All that depends on how tasks and settlements are made


def _new_task(
    due_s: int | None, pool: str, unique: Facts | None = None, after: dict[str, str] | None = None, **facts: Any
) -> Any:
    run_at = None if due_s is None else START + timedelta(seconds=due_s)
    if unique is not None:
        facts["unique"] = UniqueKey(**{**unique, "on_conflict": OnConflict(unique["on_conflict"])})
    dependencies = tuple(Dependency(parent, Need(need)) for parent, need in (after or {}).items())
    return new_task(run_at=run_at, pool=PoolKind(pool), after=dependencies, **facts)


def _settlement_of(claim: Claim, outcome: AttemptOutcome, now: Any, wait_s: float) -> Settlement:
    """A failure waits *wait_s* before the next try, and so does a snooze."""
    ending = Ending(outcome, now, now, b"[1,1]" if outcome is AttemptOutcome.COMPLETED else None, None, wait_s)
    return settle(claim, ending, 0.0)


def _told(claim: Claim) -> Facts:
    return {"id": claim.id, "attempt": claim.attempt, "blob": base64.b64encode(pickle.dumps(claim)).decode()}


def _unpacked(blob: str) -> Claim:
    claim: Claim = pickle.loads(base64.b64decode(blob))
    return claim


# The planted faults


EARLY = "answers too early"
"""A submit that dies in its commit has been answered."""


def _change(pattern: str, instead: str, *names: str) -> None:
    """Change the SQL of these queries, or of all; a fault that changes nothing would prove nothing."""
    changed = 0
    for name in names or list(QUERY):
        QUERY[name], count = re.subn(pattern, instead, QUERY[name])
        changed += count
    assert changed, f"no query has {pattern}"


def _forget_limits_of_keys() -> None:
    _change(r"l\.room\b(?! >)", "9 AS room", "runnable_keyed")
    _change(r"l\.room > 0", "true", "runnable_keyed")


def _rob_the_living() -> None:
    FileLock.try_acquire = lambda _: True  # type: ignore[method-assign, assignment]


def _forget_requests() -> None:
    _change(r"iif\(cancel_requested_at IS NULL, 'pending', 'cancelled'\)", "'pending'", "give_back")
    _change(r"iif\(cancel_requested_at IS NULL, NULL, :now\)", "NULL", "give_back")


FAULTS: dict[str, Callable[[], None]] = {
    "no fence": lambda: _change(r"AND (?:\w+\.)?(?:attempt|owner) = (?::|e\.)\w+", ""),
    "no owner in the fence": lambda: _change(r"AND (?:\w+\.)?owner = (?::|e\.)\w+", ""),
    "no priority": lambda: _change(r"ORDER BY priority DESC, due_at", "ORDER BY due_at", "runnable"),
    "no due time": lambda: _change(r"ORDER BY priority DESC, due_at, seq", "ORDER BY priority DESC, seq", "runnable"),
    "claimed out of turn": lambda: _change(
        r"AND NOT EXISTS \(SELECT 1 FROM task WHERE status = 'pending'[^)]*\)", "", "submit_claimed"
    ),
    "paused queues are open": lambda: _change(r"q.paused_at IS NULL", "true", "open_lines"),
    "a retry has no retries": lambda: _change(r"failures = 0, ", "", "retry"),
    "a request to cancel is forgotten": _forget_requests,
    "the living are robbed": _rob_the_living,
    "a unique key is nobody's": lambda: _change(r"\?16, \?17", "?16, NULL", "submit_unique"),
    "a replacement is forgotten": lambda: _change(r"WHERE id = \?17", "WHERE id = ?17 AND false", "replace"),
    "who waits is released by the first end": lambda: _change(
        r"AND NOT EXISTS \(SELECT 1 FROM dependency [^)]*\([^)]*\)\)", "", "release_dependants"
    ),
    "a failed parent is as good as any": lambda: _change(r"iif\([^)]*\)", "'met'", "decide_dependencies"),
    "a retry opens nobody": lambda: _change(r"AND cancelled_by IS NOT NULL", "AND false", "reopen"),
    "a limit key is not minded": _forget_limits_of_keys,
    "a task does not enter its limit key": lambda: _change(r"WHERE id = \?", "WHERE false AND id = ?", "enter_line"),
    "a limit key is passed at a submit": lambda: _change(
        r"AND NOT EXISTS \(SELECT 1 FROM key_room[^)]*\)", "", "submit_claimed"
    ),
    EARLY: lambda: None,  # planted in ``_serve``
}


# The processes


def _serve(connection: socket.socket, fault: str | None) -> None:
    with connection.makefile("rw", encoding="ascii", newline="\n") as lines:
        opening = json.loads(lines.readline())
        client = Client(Path(opening["path"]), opening["at_s"])
        _say(lines, None)
        for line in lines:
            said = json.loads(line)
            if fault == EARLY and said["call"] == "submit" and said["die_at"] is not None:
                _say(lines, None)
                os.kill(os.getpid(), signal.SIGKILL)
            value, error = None, None
            try:
                value = client.call(said)
            except Exception:  # noqa: BLE001  # whatever it is, the test must see it
                error = traceback.format_exc()
            _say(lines, value, error)


def _say(lines: Any, value: Any, error: str | None = None) -> None:
    lines.write(f"{json.dumps({'value': value, 'error': error})}\n")
    lines.flush()


def main() -> None:
    """Fork a client for each socket that comes through the control socket, whose descriptor is the first argument."""
    fault = sys.argv[2] if len(sys.argv) > 2 else None
    if fault is not None:
        FAULTS[fault]()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as control:
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                return
            connection = socket.socket(fileno=descriptors[0])
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    control.close()
                    _serve(connection, fault)
                    status = 0
                finally:
                    sys.stderr.flush()
                    os._exit(status)  # without closing anything
            connection.close()
            control.send(f"{child}\n".encode())


if __name__ == "__main__":
    main()
