"""Freezes a process that makes checkpoints at random instructions, while another one starts the log anew.

SQLite before 3.51.3 can lose committed pages: a checkpoint that has read the log's header but has not begun to copy is
overtaken by a commit that resets the log, and then moves old pages over new ones (sqlite.org/wal.html#walresetbug). The
window is a few hundred instructions wide, so nobody meets it by waiting. Here a tracer (``ptrace``) stops the
checkpointing process after a random number of system calls and single steps of its checkpoint, lets the writer commit
through the engine, and lets go. Three rules face the same load:

- ``default``: ``PRAGMA wal_checkpoint(PASSIVE)``, as any program would;
- ``ours``: the engine's own :class:`Checkpointer`, which holds the write lock meanwhile;
- ``unlocked``: the same, but the write lock is not taken: it shows that the lock is what helps.

Long form: ``python tests/crash/freezer.py --freezes 2000 --seed 1``.
"""

import argparse
import contextlib
import ctypes
import fcntl
import functools
import json
import os
import random
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_REPAIRED = ((3, 44, 6), (3, 50, 7))
"""The older branches that were repaired too; from 3.51.3 on, all are."""
RULES = ("default", "unlocked", "ours")
DATABASE = "tasks.db"

_STEPS = 600
"""Most single steps after a system call: beyond the way from a lock that was taken to the first page that is copied."""
_FREEZE_S = 0.02
"""Longest freeze; the writer needs a few milliseconds, unless it waits for the write lock."""
_LOOK_EVERY = 5
"""Freezes between two looks at the file."""


@dataclass(slots=True)
class Outcome:
    """What one run with one rule has shown."""

    rule: str
    freezes: int = 0
    overtaken: int = 0
    """Freezes in which the writer committed all it had: only then could it reset the log."""
    acknowledged: int = 0
    seconds: float = 0.0
    damage: str | None = None

    def __str__(self) -> str:
        text = f"{self.freezes} freezes, {self.overtaken} overtaken, {self.acknowledged} tasks, {self.seconds:.1f} s"
        return f"frozen checkpointer, {self.rule} rule: {text}: {self.damage or 'no damage'}"


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Nothing here needs a disk, and commits are faster without one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="freezer-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def is_fixed() -> bool:
    """Return whether this process's SQLite does not have the fault."""
    version = sqlite3.sqlite_version_info
    is_repaired = any(version[:2] == since[:2] and version >= since for since in _REPAIRED)
    return is_repaired or version >= (3, 51, 3)


def run(
    rule: str,
    folder: Path,
    *,
    freezes: int,
    seed: int,
    limit_s: float = 60.0,
    tell: Callable[[Outcome], None] = lambda _outcome: None,
) -> Outcome:
    """Freeze a checkpointer of *rule* that often, or until the file is damaged or *limit_s* seconds are over."""
    outcome = Outcome(rule)
    started = time.monotonic()
    path = folder / DATABASE
    with _actor("writer", path, rule) as writer, _actor("checkpointer", path, rule) as checkpointer:
        race = _Race(random.Random(seed), writer, checkpointer, outcome, path)
        while outcome.freezes < freezes and outcome.damage is None and time.monotonic() - started < limit_s:
            outcome.damage = race.run_once()
            if outcome.damage is None and outcome.freezes % _LOOK_EVERY == 0:
                outcome.damage = damage_of(path, race.acknowledged)
            outcome.seconds = time.monotonic() - started
            tell(outcome)
    outcome.damage = outcome.damage or damage_of(path, race.acknowledged)
    return outcome


def damage_of(path: Path, acknowledged: set[str]) -> str | None:
    """Return what is wrong with the file, by plain SQL."""
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            found = {task for (task,) in connection.execute("SELECT id FROM task")}
            (check,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return f"SQLite: {error}"
    lost = acknowledged - found
    if lost:
        return f"{len(lost)} acknowledged tasks are lost"
    return None if check == "ok" else f"integrity_check: {' '.join(check.split())}"


class _Race:
    """One writer, one checkpointer, and who stops it."""

    def __init__(
        self, rng: random.Random, writer: "_Actor", checkpointer: "_Actor", outcome: Outcome, path: Path
    ) -> None:
        self._rng = rng
        self._log_index = path.with_name(f"{path.name}-shm")
        self._writer = writer
        self._checkpointer = checkpointer
        self._outcome = outcome
        self._tracer = Tracer(checkpointer.pid)
        self._stops: list[bool] = []
        """For each system call's entry and exit: is the checkpoint under way there?"""
        self.acknowledged: set[str] = set()

    def run_once(self) -> str | None:
        """Fill the log, move it, and freeze the next checkpoint while the log is filled again, to a smaller length.

        Returns what the writer or the checkpointer complains of.
        """
        longer = self._rng.randint(4, 24)
        self._writer.ask(longer)
        self._note(self._writer.answer())
        self._checkpointer.ask(0)
        self._checkpointer.answer()
        if not self._stops:
            self._stops = self._find_stops()
        self._tracer.stop()
        self._checkpointer.ask(0)
        self._tracer.pass_syscalls(self._some_stop())
        self._tracer.pass_steps(self._rng.randrange(_STEPS))
        self._outcome.freezes += 1
        self._writer.ask(self._rng.randint(1, longer))
        self._outcome.overtaken += self._writer.answers_within(_FREEZE_S)
        self._tracer.go_on()
        self._checkpointer.answer()
        self._note(self._writer.answer())
        return self._writer.complaint or self._checkpointer.complaint

    def _some_stop(self) -> int:
        """Return after how many stops to freeze: half of the time within the checkpoint proper, else anywhere."""
        inside = [count for count, is_inside in enumerate(self._stops, 1) if is_inside]
        return self._rng.choice(inside) if self._rng.random() < 0.5 else self._rng.randint(1, len(self._stops))

    def _find_stops(self) -> list[bool]:
        """Go through one checkpoint stop by stop."""
        stops = []
        with open(self._log_index, "rb") as file:
            self._tracer.stop()
            self._checkpointer.ask(0)
            while not self._checkpointer.answers_within(0):
                self._tracer.pass_syscalls(1)
                stops.append(_is_checkpoint_locked(file.fileno()))
            self._tracer.go_on()
        self._checkpointer.answer()
        return stops

    def _note(self, tasks: list[str]) -> None:
        self.acknowledged.update(tasks)
        self._outcome.acknowledged = len(self.acknowledged)


_CHECKPOINT_BYTE = 121
"""Where SQLite locks the log's index while it makes a checkpoint (WAL_CKPT_LOCK)."""
_FLOCK = "hhqqi"


def _is_checkpoint_locked(descriptor: int) -> bool:
    asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, _CHECKPOINT_BYTE, 1, 0)
    kind: int = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0]
    return kind != fcntl.F_UNLCK


# The tracer


_CONT, _STEP, _SYSCALL, _SEIZE, _INTERRUPT = 7, 9, 24, 0x4206, 0x4207
_WALL = 0x40000000


class Tracer:
    """Stops one single-threaded process between two of its instructions. All calls come from one thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        self._libc.ptrace.restype = ctypes.c_long
        self._ask(_SEIZE)

    def stop(self) -> None:
        """Stop it wherever it is."""
        self._ask(_INTERRUPT)
        self._wait()

    def go_on(self) -> None:
        """Let it run."""
        self._ask(_CONT)

    def pass_syscalls(self, count: int) -> None:
        """Let it run to the entry or exit of a system call, *count* times."""
        for _ in range(count):
            self._ask(_SYSCALL)
            self._wait()

    def pass_steps(self, count: int) -> None:
        """Let it run *count* instructions."""
        for _ in range(count):
            self._ask(_STEP)
            self._wait()

    def _ask(self, request: int) -> None:
        if self._libc.ptrace(request, self._pid, None, None) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"ptrace: {os.strerror(number)}")

    def _wait(self) -> None:
        _, status = os.waitpid(self._pid, _WALL)
        if not os.WIFSTOPPED(status):
            raise ChildProcessError(f"the traced process ended with {status}")


def why_not() -> str | None:
    """Return why this machine lets nobody trace, ``None`` when it does."""
    if not sys.platform.startswith("linux"):
        return "ptrace as it is used here is Linux's"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            Tracer(child.pid)
        except OSError as error:
            return str(error)
        finally:
            child.kill()
    return None


# The two processes


class _Actor:
    """A child process that does one thing for each line it is sent, and answers with a line."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self.pid = process.pid
        self.complaint: str | None = None

    def ask(self, count: int) -> None:
        if self.complaint is None:
            self._stdin.write(b"%d\n" % count)

    def answers_within(self, limit_s: float) -> bool:
        """Return whether there is an answer, waiting for it that long."""
        return bool(select.select([self._stdout], [], [], limit_s)[0])

    def answer(self) -> list[str]:
        """Return the answer: the tasks that were acknowledged."""
        if self.complaint is not None:
            return []
        line = self._stdout.readline()
        if not line:
            raise ChildProcessError(f"process {self.pid} ended")
        said: dict[str, Any] = json.loads(line)
        self.complaint = said["complaint"]
        tasks: list[str] = said["tasks"]
        return tasks


@contextlib.contextmanager
def _actor(role: str, path: Path, rule: str) -> Iterator[_Actor]:
    command = [sys.executable, __file__, "--role", role, "--rule", rule, "--path", str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        actor = _Actor(process)
        actor.answer()
        yield actor
    finally:
        process.send_signal(signal.SIGKILL)
        with process:
            pass


def _say(tasks: list[str], complaint: str | None = None) -> None:
    os.write(1, json.dumps({"tasks": tasks, "complaint": complaint}).encode() + b"\n")


def _asked() -> Iterator[int]:
    """Yield what is asked, line by line, by nothing but ``read``: the calls that are traced are those that count."""
    while line := os.read(0, 64):
        yield int(line)


def _write(path: Path) -> None:
    """Submit as many tasks as asked, one by one, through the engine."""
    from thirdshift.core.clock import Clock
    from thirdshift.core.task import NewTask, PoolKind, TaskId, TaskSpec
    from thirdshift.engines.sqlite import SQLiteEngine
    from thirdshift.runtime.clock import SystemClock

    clock: Clock = SystemClock()
    engine = SQLiteEngine.shared(path, clock=clock)
    submitted = 0
    _say([])
    for count in _asked():
        tasks: list[str] = []
        try:
            for _ in range(count):
                submitted += 1
                task_id = TaskId(f"{submitted * 0x9E3779B97F4A7C15 % 2**128:032x}")
                spec = TaskSpec(name="noop", function="math:factorial", queue="default", pool=PoolKind.THREAD)
                task = NewTask(task_id, b"x" * 200, spec)
                engine.submit([task])
                tasks.append(task.id)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what the user would see
            _say(tasks, repr(error))
        else:
            _say(tasks)


class _NoWriteLock(sqlite3.Connection):
    """The planted fault."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute("BEGIN" if sql == "BEGIN IMMEDIATE" else sql, *parameters)


def _make_checkpoints(path: Path, rule: str) -> None:
    """Make one checkpoint for each line."""
    from thirdshift.engines.sqlite.checkpoint import Checkpointer

    make: Callable[[], object]

    def make_default() -> None:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    if rule == "unlocked":
        sqlite3.connect = functools.partial(sqlite3.connect, factory=_NoWriteLock)  # type: ignore[assignment]
    if rule != "default":
        make = Checkpointer(path, path.with_name("checkpoint.lock")).checkpoint
    else:
        connection = sqlite3.connect(path, isolation_level=None)
        make = make_default
    _say([])
    for _ in _asked():
        try:
            make()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what the user would see
            _say([], repr(error))
        else:
            _say([])


# The long form


def main() -> int:
    """Run all rules and show the figures; 1 when ours is damaged or another one is not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--freezes", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0, help="limit for each rule")
    parser.add_argument("--rule", choices=RULES, help="only this one")
    parser.add_argument("--role", choices=("writer", "checkpointer"), help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "writer":
        _write(options.path)
    elif options.role == "checkpointer":
        _make_checkpoints(options.path, options.rule)
    else:
        return _compare(options)
    return 0


def _compare(options: argparse.Namespace) -> int:
    def tell(outcome: Outcome) -> None:
        if outcome.freezes % 50 == 0:
            sys.stderr.write(f"\r{outcome}")

    outcomes = []
    for rule in RULES if options.rule is None else (options.rule,):
        with folder_in_memory() as folder:
            outcome = run(rule, folder, freezes=options.freezes, seed=options.seed, limit_s=options.seconds, tell=tell)
        sys.stderr.write("\r")
        sys.stdout.write(f"{outcome}\n")
        outcomes.append(outcome)
    return int(any((outcome.damage is None) != (outcome.rule == "ours" or is_fixed()) for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
