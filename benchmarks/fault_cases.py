"""The faults: each is done to one side, and what its tasks' own log says afterwards is the finding."""

import contextlib
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from bench import Skipped
from fault_peers import OURS, Log, Side, Worker

_FREEZER = Path(__file__).parents[1] / "tests" / "crash" / "freezer.py"
_RESCUE_LIMIT_S = 150
"""Patience for a task whose worker was killed."""
_START_LIMIT_S = 60
"""For a worker to come up on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one fault did to one side."""

    tasks: int
    lost: int
    """Not run to their end, and the library knows nothing of them any more."""
    stuck: int
    """Not run to their end when patience was over; the library still has them."""
    doubled: int
    """Run to their end more than once."""
    remark: str = ""
    took_s: float = 0.0
    """From the last kill to the last end of a task."""
    goes_on: bool = False
    """Whether it would go on for ever."""
    may_repeat: bool = False
    """Whether a task may run twice: one that ended just before its process was killed, and was not yet recorded."""

    @property
    def holds(self) -> bool:
        return not (self.lost or self.stuck or self.goes_on or (self.doubled and not self.may_repeat))


def random_kills(side: Side, *, kills: int = 12, count: int = 300) -> Finding:
    """Kill the worker, all its processes at once, at random moments while it works; each time another one follows."""
    draws = random.Random(1)
    side.submit("work", count, 0.1)
    worker = side.start()
    done = 0
    for _ in range(kills):
        before = _starts(side.log())
        if not _until(lambda before=before: _starts(side.log()) > before, _START_LIMIT_S):
            break
        time.sleep(draws.uniform(0, 0.4))
        worker.kill()
        done += 1
        worker = side.start()
    killed_at = time.monotonic()
    _until_all_ended(side, count, _RESCUE_LIMIT_S)
    log = side.log()
    last = max((times[-1] for times in log.ends.values()), default=killed_at) - killed_at
    remark = f"{done} kills; the last task ended {max(last, 0):.0f} s after the last"
    return replace(_finding(side, range(count), remark), took_s=max(last, 0))


def kill_at_receipt(side: Side, *, hits: int = 5) -> Finding:
    """Kill the worker at the system call by which a task comes to it: where it reads the broker's answer, or we claim.

    Celery's transport takes a task from Redis by BRPOP, and notes it as unacknowledged by a second call.
    """
    if shutil.which("strace") is None:
        raise Skipped("strace is not installed")
    is_ours = side.who == OURS
    if not is_ours:
        side.submit("work", hits, 0.05)
        _redis(side.place, "RENAME", "celery", "stash")
    for number in range(hits):
        worker = side.start(*([] if is_ours else ["--pool", "solo"]))
        _await_up(side, number)
        with _strace(worker, "pwrite64" if is_ours else "recvfrom"):
            if is_ours:
                side.submit("work", 1, 0.05, first=number)
            else:
                _redis(side.place, "LMOVE", "stash", "celery", "RIGHT", "LEFT")
            _until(worker.is_dead, 20)
        worker.kill()
    side.start(*([] if is_ours else ["--pool", "solo"]))
    _until_all_ended(side, hits, 3 * side.rescue_age_s)
    return _finding(side, range(hits), remark=f"{hits} kills, each at the call that brings a task")


def poison(side: Side, *, count: int = 40, limit_s: float = 60) -> Finding:
    """Among good tasks are three that kill their process; a supervisor starts a dead worker again."""
    bad = range(count, count + 3)
    side.submit("poison", 3, 0, first=count)
    side.submit("work", count, 0.05)
    worker, restarts, began = side.start(), 0, time.monotonic()

    def is_over() -> bool:
        nonlocal worker, restarts
        if worker.is_dead():
            worker.kill()  # what it has left behind
            worker, restarts = side.start(), restarts + 1
        return len(side.log().ends) >= count and time.monotonic() - began > 5 and side.known() == 0

    is_buried = _until(is_over, limit_s, every_s=0.5)
    log = side.log()
    starts = sum(len(log.starts.get(number, ())) for number in bad)
    end = "given up" if is_buried else "still running"
    remark = f"the 3 poisons ran {starts} times, then {end}; the worker died {restarts} times"
    return replace(_finding(side, range(count), remark, is_over=is_buried), goes_on=not is_buried)


def stopped_worker(side: Side) -> Finding:
    """Stop the worker of a long task for longer than it takes the library to think it dead, then let it go on.

    Another worker is there. Afterwards the worker of a second long task is killed.
    """
    workers = [side.start(), side.start()]
    side.submit("work", 1, 6)
    _until(lambda: 0 in side.log().starts, _START_LIMIT_S)
    holder = _holder(side, workers, 0)
    holder.stop()
    time.sleep(side.rescue_age_s * 2 + 5)
    holder.go_on()
    _until_all_ended(side, 1, 30)
    time.sleep(8)  # a second run that began meanwhile ends too
    stopped = len(side.log().starts.get(0, ()))
    side.submit("work", 1, 2, first=1)
    _until(lambda: 1 in side.log().starts, _START_LIMIT_S)
    killed_at = time.monotonic()
    _holder(side, workers, 1).kill()
    _until_all_ended(side, 2, _RESCUE_LIMIT_S)
    later = [moment - killed_at for moment in side.log().starts.get(1, ()) if moment > killed_at]
    again = f"started elsewhere {later[0]:.2f} s after the kill" if later else "never started elsewhere"
    return _finding(side, range(2), f"while stopped: {stopped} start(s); killed: {again}", may_repeat=False)


def forks(side: Side, kind: str = "fork-submit", *, count: int = 500) -> Finding:
    """Each task forks; the child ends at once, or submits a task by the connection that it has inherited."""
    side.submit(kind, count, 0)
    side.start()
    _until_all_ended(side, count, 30)
    log = side.log()
    expected = {*range(count), *log.sent}
    _until(lambda: expected <= set(side.log().ends), 20)
    with contextlib.closing(sqlite3.connect(side.place)) as file:
        (check,) = file.execute("PRAGMA integrity_check(1)").fetchone()
    told = f"; of {count} submits by children {len(log.sent)} acknowledged, {len(log.refused)} refused{side.refusals()}"
    return _finding(side, sorted(expected), f"integrity {check}{told if kind == 'fork-submit' else ''}")


def overtaken_checkpoint(side: Side, *, freezes: int = 400, limit_s: float = 60) -> Finding:
    """Stop a process at random instructions of its checkpoint of the WAL, while another one commits.

    The one rule is ours, the other that of every program that leaves checkpoints to SQLite, as huey does.
    """
    rule = "ours" if side.who == OURS else "default"
    command = [sys.executable, str(_FREEZER), "--rule", rule, "--freezes", str(freezes), "--seconds", str(limit_s)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout.strip().rpartition("rule: ")[2]
    if not said:
        raise Skipped(done.stderr.strip().splitlines()[-1])
    tasks, lost = _number(r"(\d+) tasks,", said), _number(r"(\d+) acknowledged tasks are lost", said)
    is_damaged = not said.endswith("no damage")
    remark = f"SQLite {sqlite3.sqlite_version}: {said}"
    return Finding(tasks=tasks, lost=lost or int(is_damaged), stuck=0, doubled=0, remark=remark)


def _finding(
    side: Side, numbers: Sequence[int], remark: str, *, is_over: bool = False, may_repeat: bool = True
) -> Finding:
    log, known = side.log(), 0
    unfinished = sum(number not in log.ends for number in numbers)
    if unfinished and not is_over:
        known = side.known()
    if unfinished and (told := side.failed()):
        unfinished -= told
        remark += f"; {told} told as failed"
    stuck = min(max(unfinished, 0), known)
    return Finding(
        tasks=len(numbers),
        lost=max(unfinished - stuck, 0),
        stuck=stuck,
        doubled=log.doubled,
        remark=remark,
        may_repeat=may_repeat,
    )


def _starts(log: Log) -> int:
    return sum(map(len, log.starts.values()))


def _until(is_so: Callable[[], bool], limit_s: float, every_s: float = 0.05) -> bool:
    deadline = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def _until_all_ended(side: Side, count: int, patience_s: float) -> None:
    """Wait until the first *count* tasks have ended, or no other one has for that long."""
    ended, deadline = -1, 0.0
    while (now := sum(number < count for number in side.log().ends)) < count:
        if now > ended:
            ended, deadline = now, time.monotonic() + patience_s
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _holder(side: Side, workers: list[Worker], number: int) -> Worker:
    pid = side.log().pids[number]
    return next(worker for worker in workers if not worker.is_dead() and worker.holds(pid))


def _await_up(side: Side, number: int) -> None:
    """Have the new worker run a task: then it is up, and waits for the next one."""
    side.submit("work", 1, 0, first=10_000 + number)
    if not _until(lambda: 10_000 + number in side.log().ends, _START_LIMIT_S):
        raise Skipped("its worker does not start")
    time.sleep(0.5)


@contextlib.contextmanager
def _strace(worker: Worker, call: str) -> Iterator[None]:
    command = ["strace", "-f", "-p", str(worker.pid), "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        if "attached" not in tracer.stderr.readline():
            tracer.kill()
            raise Skipped("strace may not attach here")
        try:
            yield
        finally:
            tracer.terminate()


def _redis(url: str, *words: str) -> None:
    """Send one command; the answer is not needed, but that it came."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        sent = b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)
        connection.sendall(b"*%d\r\n" % len(words) + sent)
        assert not connection.recv(4096).startswith(b"-"), words


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
