"""What a power loss can leave of the database, image by image: does every promise still hold?

A child process works with the real engine while ``strace`` records what it writes, truncates, syncs, creates and
unlinks, and the marks it sets before and after every operation: one total order. From that order this module builds
what a disk may hold after a power loss at any moment:

- What was written before the last completed ``fdatasync``/``fsync`` of its file is there.
- Every later write is kept, dropped or torn at 512-byte sectors, each by itself, and those that are kept may reach the
  disk in any order. A truncation is kept or dropped. A file may have grown to its new length without its data (zeros).
- A name that was created or unlinked after the last sync of the folder may stand for what it stood for then or at any
  moment since, each name by itself. The folder itself exists.
- A sector is written as a whole, and writing it harms no other byte (SQLite assumes the same). Garbage, bit rot and a
  disk that lies about its syncs are not modelled.

The log's index (``-shm``) is memory: it is never part of an image. Then the engine opens the image, a judge that shares
no code with it reads the file by plain SQL, and the engine must be able to go on and finish all that is unfinished.

A harness counts only if it catches faults, so the same one runs against broken variants (:data:`CONTROLS`); they are
planted in the recorded process alone.
"""

import contextlib
import functools
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from math import factorial
from pathlib import Path
from typing import Any

from thirdshift import BackgroundTaskManager
from thirdshift.core.engine import ClaimRequest
from thirdshift.core.errors import StoreDamaged
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.task import AttemptOutcome, Claim, NewTask, PoolKind, TaskError, TaskId, TaskSpec
from thirdshift.engines.sqlite import SQLiteEngine, connection
from thirdshift.engines.sqlite.checkpoint import Checkpointer
from thirdshift.engines.sqlite.liveness import SQLiteRegistration
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.torture import checker
from thirdshift.testing.torture.harness import Verdict
from thirdshift.testing.torture.syscalls import why_no_strace

SECTOR_BYTES = 512
IMAGES_PER_RECORDING = 500
DATABASE = "tasks.db"
MARKS = "marks"
ORIGIN = "origin"
"""Says where the recording was made, so that it can be read wherever it lies later."""
STORED = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-journal")
"""The files whose content survives a power loss."""

LOST_TASK = "an acknowledged task is lost"
LOST_OUTCOME = "an acknowledged outcome is lost"
CORRUPT = "the file is damaged"
IMPOSSIBLE = "a task is in a state that nobody asked for"
STUCK = "the engine cannot go on"

CONTROLS = {
    "relaxed": LOST_TASK,
    "normal": LOST_TASK,
    "early": LOST_TASK,
    "off": CORRUPT,
    "folder": LOST_TASK,
}
"""The broken variants, and the kind of violation that each must show.

``relaxed`` judges relaxed tasks as if they were full; ``normal`` has NORMAL in the place of FULL; ``early``
acknowledges before the commit; ``off`` never syncs; in ``folder`` nobody syncs the folder.
"""

State = list[Any] | None
"""What is known of a task: its final status or ``open``, and its ended attempts as [number, outcome, result]. ``None``:
there is no such task. Claims are left out: they promise nothing."""


# The recording


@dataclass(frozen=True, slots=True)
class Change:
    """One write or truncation of one file (an inode, not a name), at its place in the total order."""

    begin: int
    end: int
    offset: int
    data: bytes | None
    """``None``: the file was cut or grown to ``offset`` bytes."""


@dataclass(frozen=True, slots=True)
class Span:
    """When a call began and returned, as places in the total order."""

    begin: int
    end: int


@dataclass(slots=True)
class StoredFile:
    """One file, under whatever name: its changes and its syncs."""

    changes: list[Change] = field(default_factory=list)
    syncs: list[Span] = field(default_factory=list)


@dataclass(slots=True)
class Operation:
    """One operation of the workload: what it makes of tasks, and when it was begun and acknowledged."""

    begin: int
    moves: list[tuple[str, bool, State]]
    """(task, whether it is promised to survive, its state afterwards)."""
    done: int | None = None


@dataclass(slots=True)
class Recording:
    """All that the recorded process did to its files."""

    files: list[StoredFile] = field(default_factory=list)
    names: dict[str, list[tuple[Span, int | None]]] = field(default_factory=dict)
    """For each name, which file it stood for since when; ``None``: no file."""
    folder_syncs: list[Span] = field(default_factory=list)
    operations: dict[int, Operation] = field(default_factory=dict)
    moments: list[int] = field(default_factory=list)
    """The places at which something happened: where the power may fail."""

    def cuts(self) -> list[int]:
        """Return the moments after the first acknowledgement."""
        first = min(operation.done for operation in self.operations.values() if operation.done is not None)
        return [moment for moment in self.moments if moment > first]

    def calls(self) -> dict[str, int]:
        """Return how much was recorded, for the summary."""
        changes = [change for file in self.files for change in file.changes]
        return {
            "operations": len(self.operations),
            "writes": sum(change.data is not None for change in changes),
            "truncations": sum(change.data is None for change in changes),
            "syncs": sum(len(file.syncs) for file in self.files) + len(self.folder_syncs),
            "names created or unlinked": sum(len(states) for states in self.names.values()),
        }


_TRACED = (
    "write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,sendfile,"
    "fsync,fdatasync,sync_file_range,openat,open,creat,unlink,unlinkat,rename,renameat,renameat2,link,linkat"
)


def record(folder: Path, *, seed: int, arm: str = "full") -> Recording:
    """Run the workload of *seed* in a child and return all it wrote; *folder* must be empty."""
    folder = folder.resolve()
    trace = folder / "trace"
    work = folder / "work"
    work.mkdir()
    (folder / ORIGIN).write_text(str(work))
    own = [sys.executable, "-m", "thirdshift.testing.torture.power_loss", str(work), str(seed), arm]
    strace = ["strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "200000", "-e", f"trace={_TRACED}", "-o", str(trace)]
    done = subprocess.run([*strace, *own], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"the workload failed:\n{done.stderr}\n{done.stdout}")
    recording = read_trace(trace, work)
    _demand_faithful(recording, work)
    if arm == "folder":
        recording.folder_syncs.clear()
    return recording


def read_trace(trace: Path, work: Path) -> Recording:
    """Return what *trace* says about the files in *work*."""
    reader = _TraceReader(work)
    with trace.open("r", encoding="ascii") as lines:
        for place, line in enumerate(lines):
            reader.read(place, line)
    return reader.recording


def _demand_faithful(recording: Recording, work: Path) -> None:
    """If nothing is lost, the rebuilt files are the real ones: else the recording has missed a write."""
    image = build_image(recording, recording.moments[-1] + 1, _KeepAll())
    for name in STORED:
        real = (work / name).read_bytes() if (work / name).exists() else None
        if image.get(name) != real:
            raise RuntimeError(f"the recording does not lead to the real {name}")


_PATH = r"<((?:\\x[0-9a-f]{2})+)>"
_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)")
_DESCRIPTOR = re.compile(rf"\d+{_PATH}")
_WRITE = re.compile(rf'\d+{_PATH}, "([^"]*)", \d+, (\d+)')
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_SYNCS = ("fsync", "fdatasync")
_OPENS = ("openat", "open", "creat")
_UNLINKS = ("unlink", "unlinkat")


class _TraceReader:
    """Reads the lines of a trace, in which calls of several threads may overlap."""

    def __init__(self, work: Path) -> None:
        self.recording = Recording(names={name: [(Span(-1, -1), None)] for name in STORED})
        self._work = os.fsencode(work)
        self._paths = {os.fsencode(work / name): name for name in STORED}
        self._marks = os.fsencode(work / MARKS)
        self._unfinished: dict[str, tuple[int, str]] = {}

    def read(self, place: int, line: str) -> None:
        process, _, call = line.partition(" ")
        call = call.strip()
        begin = place
        if call.endswith("<unfinished ...>"):
            self._unfinished[process] = (place, call.removesuffix("<unfinished ...>").rstrip())
            return
        if call.startswith("<... "):
            begin, head = self._unfinished.pop(process)
            call = head + call.partition("resumed>")[2]
        found = _LINE.match(call)
        if found and int(found[3]) >= 0:
            self._take(found[1], found[2], int(found[3]), Span(begin, place))

    def _take(self, call: str, arguments: str, result: int, span: Span) -> None:
        if call in _OPENS:
            if "O_CREAT" in arguments or call == "creat":
                self._take_creation(_path_in(arguments), span)
        elif call in _UNLINKS:
            name = self._paths.get(_path_in(arguments))
            if name is not None:
                self._name(name, None, span)
        else:
            self._take_data(call, arguments, result, span)

    def _take_creation(self, path: bytes, span: Span) -> None:
        name = self._paths.get(path)
        if name is not None and self._current(name) is None:
            self.recording.files.append(StoredFile())
            self._name(name, len(self.recording.files) - 1, span)

    def _take_data(self, call: str, arguments: str, result: int, span: Span) -> None:
        descriptor = _DESCRIPTOR.match(arguments)
        path = _decoded(descriptor[1]) if descriptor else _path_in(arguments)
        if path == self._marks and call == "write":
            self._take_mark(_decoded(_TEXT.findall(arguments)[0]), span)
        elif path == self._work and call in _SYNCS:
            self.recording.folder_syncs.append(span)
        elif path in self._paths:
            self._take_change(self._paths[path], call, arguments, result, span)
        else:
            return
        self.recording.moments.append(span.end)

    def _take_change(self, name: str, call: str, arguments: str, result: int, span: Span) -> None:
        number = self._current(name)
        assert number is not None, f"{name} is written before it exists"
        file = self.recording.files[number]
        if call in _SYNCS:
            file.syncs.append(span)
        elif call == "ftruncate":
            size_bytes = int(arguments.rpartition(", ")[2])
            file.changes.append(Change(span.begin, span.end, size_bytes, None))
        elif call == "pwrite64" and (found := _WRITE.fullmatch(arguments)):
            file.changes.append(Change(span.begin, span.end, int(found[3]), _decoded(found[2])[:result]))
        else:
            raise RuntimeError(f"{name} is changed in a way that is not modelled: {call}({arguments[:100]})")

    def _take_mark(self, line: bytes, span: Span) -> None:
        mark = json.loads(line)
        if "moves" in mark:
            moves = [(task, promised, state) for task, promised, state in mark["moves"]]
            self.recording.operations[mark["begin"]] = Operation(span.begin, moves)
        else:
            self.recording.operations[mark["done"]].done = span.end

    def _current(self, name: str) -> int | None:
        return self.recording.names[name][-1][1]

    def _name(self, name: str, file: int | None, span: Span) -> None:
        self.recording.names[name].append((span, file))
        self.recording.moments.append(span.end)


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _path_in(arguments: str) -> bytes:
    return _decoded(_TEXT.findall(arguments)[0])


# The images


class Fate:
    """Decides what becomes of each write that was not synced; one seed always decides alike."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.mode = rng.choice(("none", "prefix", "apart", "apart", "shuffled"))
        self._kept = rng.choice((0.1, 0.5, 0.9))
        self._torn = rng.choice((0.0, 0.3))
        self._grown = rng.random() < 0.3

    def name(self, states: Sequence[int | None]) -> int | None:
        """Choose what a name stands for; the first is what the folder's last sync says."""
        return states[0] if self.mode == "none" else self._rng.choice(states)

    def changes(self, pending: Sequence[Change]) -> list[Change]:
        """Choose which changes, or which sectors of them, reached the disk, in the order in which they did."""
        if self.mode == "none":
            return []
        if self.mode == "prefix":
            count = self._rng.randint(0, len(pending))
            kept = list(pending[:count])
            return kept if count == len(pending) else [*kept, *self._some_sectors(pending[count])]
        kept = [part for change in pending if self._rng.random() < self._kept for part in self._part(change)]
        return self._shuffled(kept) if self.mode == "shuffled" else kept

    def grows(self) -> bool:
        """Choose whether a file has its new length also where its new data is missing."""
        return self._grown

    def _part(self, change: Change) -> list[Change]:
        return self._some_sectors(change) if self._rng.random() < self._torn else [change]

    def _some_sectors(self, change: Change) -> list[Change]:
        if change.data is None:
            return []
        parts = []
        position, end = change.offset, change.offset + len(change.data)
        while position < end:
            until = min(end, (position // SECTOR_BYTES + 1) * SECTOR_BYTES)
            if self._rng.random() < 0.5:
                data = change.data[position - change.offset : until - change.offset]
                parts.append(Change(change.begin, change.end, position, data))
            position = until
        return parts

    def _shuffled(self, changes: list[Change]) -> list[Change]:
        """Writes change places among themselves; a truncation keeps its place."""
        writes = [change for change in changes if change.data is not None]
        self._rng.shuffle(writes)
        return [change if change.data is None else writes.pop() for change in changes]


class _KeepAll(Fate):
    """No power loss at all."""

    def __init__(self) -> None:
        super().__init__(random.Random(0))

    def name(self, states: Sequence[int | None]) -> int | None:
        return states[-1]

    def changes(self, pending: Sequence[Change]) -> list[Change]:
        return list(pending)


def build_image(recording: Recording, cut: int, fate: Fate) -> dict[str, bytes]:
    """Return the files as a power loss just after the moment *cut* may leave them."""
    image = {}
    for name, states in recording.names.items():
        synced_at = max((span.begin for span in recording.folder_syncs if span.end <= cut), default=-1)
        begun = [(span, file) for span, file in states if span.begin <= cut]
        certain = max(place for place, (span, _) in enumerate(begun) if span.end <= synced_at)
        file = fate.name([file for _, file in begun[certain:]])
        if file is not None:
            image[name] = _content(recording.files[file], cut, fate)
    return image


def _content(file: StoredFile, cut: int, fate: Fate) -> bytes:
    synced_at = max((span.begin for span in file.syncs if span.end <= cut), default=-1)
    content = bytearray()
    pending = []
    for change in file.changes:
        if change.end <= synced_at:
            _apply(content, change)
        elif change.begin <= cut:
            pending.append(change)
    for change in fate.changes(pending):
        _apply(content, change)
    if pending and fate.grows():
        size = max((change.offset + len(change.data) for change in pending if change.data is not None), default=0)
        content.extend(bytes(max(0, size - len(content))))
    return bytes(content)


def _apply(content: bytearray, change: Change) -> None:
    if change.data is None:
        del content[change.offset :]
        content.extend(bytes(change.offset - len(content)))
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(change.data)] = change.data


# The judge: plain SQL, nothing of the engine

_FINAL = ("completed", "failed", "cancelled")
_ENDS_AS = {"completed": ("completed",), "failed": ("failed", "timed_out"), "cancelled": ("cancelled",)}
_COUNTED = ("failed", "timed_out")


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise in one image."""

    kind: str
    text: str


@dataclass(slots=True)
class Row:
    """One task as the file tells it."""

    status: str
    attempt: int
    failures: int
    finished_at: int | None
    attempts: list[tuple[int, str, str | None, int]] = field(default_factory=list)
    """(number, outcome, result in hexadecimal digits, when it ended)."""
    retried_at: list[int] = field(default_factory=list)

    def state(self) -> State:
        status = self.status if self.status in _FINAL else "open"
        return [status, [[number, outcome, result] for number, outcome, result, _ in self.attempts]]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open *path* as any other program would."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def judge(path: Path, recording: Recording, cut: int) -> list[Violation]:
    """Compare the file with what was promised by the moment *cut*."""
    try:
        with reading(path) as connection:
            checks = [line for (line,) in connection.execute("PRAGMA integrity_check")]
            orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
            if checks != ["ok"] or orphans:
                return [Violation(CORRUPT, f"integrity_check: {checks[:3]}, foreign_key_check: {orphans[:3]}")]
            rows = read_rows(connection)
    except sqlite3.DatabaseError as error:
        return [Violation(CORRUPT, f"SQLite: {error}")]
    histories = histories_at(recording, cut)
    found = [violation for task, history in histories.items() for violation in _judge_task(task, history, rows)]
    found += [Violation(IMPOSSIBLE, f"{task} was never asked for") for task in rows.keys() - histories.keys()]
    return found + [violation for task, row in rows.items() for violation in _judge_row(task, row)]


def read_rows(connection: sqlite3.Connection) -> dict[str, Row]:
    """Return every task of the file."""
    rows, ids = {}, {}
    for seq, task, *columns in connection.execute("SELECT seq, id, status, attempt, failures, finished_at FROM task"):
        rows[task] = Row(*columns)
        ids[seq] = task
    for seq, number, outcome, result, at in connection.execute(
        "SELECT task, number, outcome, result, finished_at FROM attempt ORDER BY task, number"
    ):
        rows[ids[seq]].attempts.append((number, outcome, None if result is None else result.hex(), at))
    for seq, at in connection.execute("SELECT task, at FROM event WHERE kind = 'retried' ORDER BY seq"):
        rows[ids[seq]].retried_at.append(at)
    return rows


@dataclass(slots=True)
class Step:
    """One step of a task's history: its state, whether that is promised, and whether it is acknowledged."""

    state: State
    is_certain: bool


def histories_at(recording: Recording, cut: int) -> dict[str, list[Step]]:
    """Return, for every task, what was begun with it by the moment *cut*, in order."""
    histories: dict[str, list[Step]] = defaultdict(lambda: [Step(None, True)])
    for operation in recording.operations.values():
        if operation.begin <= cut:
            is_done = operation.done is not None and operation.done <= cut
            for task, is_promised, state in operation.moves:
                histories[task].append(Step(state, is_promised and is_done))
    return histories


def _judge_task(task: str, history: list[Step], rows: dict[str, Row]) -> list[Violation]:
    """The task is as it was promised last, or as something later has made it."""
    certain = max(place for place, step in enumerate(history) if step.is_certain)
    actual = rows[task].state() if task in rows else None
    if any(_matches(actual, step.state) for step in history[certain:]):
        return []
    text = f"{task}: {actual} instead of {history[certain].state}"
    if actual is None:
        return [Violation(LOST_TASK, text)]
    is_earlier = any(_matches(actual, step.state) for step in history[:certain])
    return [Violation(LOST_OUTCOME if is_earlier else IMPOSSIBLE, text)]


def _matches(actual: State, expected: State) -> bool:
    """``*`` stands for any result."""
    if actual is None or expected is None:
        return actual is expected
    if actual[0] != expected[0] or len(actual[1]) != len(expected[1]):
        return False
    pairs = zip(actual[1], expected[1], strict=True)
    return all(have[:2] == want[:2] and want[2] in ("*", have[2]) for have, want in pairs)


def _judge_row(task: str, row: Row) -> list[Violation]:
    """One task's row, attempts and events tell one story."""
    numbers = [number for number, *_ in row.attempts]
    ends = [(at, outcome) for _, outcome, _, at in row.attempts]
    wrong = []
    if numbers and row.attempt < numbers[-1]:
        wrong.append("has an attempt that was never claimed")
    if row.status == "running" and row.attempt in numbers:
        wrong.append("runs an attempt that has ended")
    if row.status in _FINAL and ends and ends[-1][1] not in (*_ENDS_AS[row.status], *_waits(row)):
        wrong.append(f"is {row.status} after an attempt that ended as {ends[-1][1]}")
    if sum(outcome in ("completed", "cancelled") for _, outcome in ends) > 1 + len(row.retried_at):
        wrong.append("has two outcomes")
    since = row.retried_at[-1] if row.retried_at else -1
    failures = sum(outcome in _COUNTED for at, outcome in ends if at > since)
    if row.failures != failures:
        wrong.append(f"counts {row.failures} failures")
    return [Violation(IMPOSSIBLE, f"{task} {text}: {row}") for text in wrong]


def _waits(row: Row) -> tuple[str, ...]:
    """A task that waited after its last attempt may be cancelled without another one."""
    return ("failed", "timed_out", "snoozed", "interrupted", "completed") if row.status == "cancelled" else ()


def judge_end(path: Path, before: dict[str, Row], probe: str) -> list[Violation]:
    """After the engine has gone on: all is finished, and what was finished before is as it was."""
    with reading(path) as connection:
        checks = [line for (line,) in connection.execute("PRAGMA integrity_check")]
        rows = read_rows(connection)
    found = [] if checks == ["ok"] else [Violation(CORRUPT, f"afterwards: {checks[:3]}")]
    if probe not in rows or rows[probe].status != "completed":
        found.append(Violation(STUCK, f"a new task does not complete: {rows.get(probe)}"))
    found += [Violation(STUCK, f"{task} stays {row.status}") for task, row in rows.items() if row.status not in _FINAL]
    for task, row in before.items():
        if row.status in _FINAL and rows.get(task) != row:
            found.append(Violation(IMPOSSIBLE, f"{task} was finished and is changed: {row} to {rows.get(task)}"))
    return found


# One image


@dataclass(frozen=True, slots=True)
class Case:
    """One image that breaks a promise; the same recording, seed and number make it again."""

    seed: int
    number: int
    cut: int
    mode: str
    has_loss: bool
    violations: list[Violation]


def judge_image(recording: Recording, folder: Path, *, seed: int, number: int) -> Case:
    """Build image *number* of *seed* in *folder*, which is emptied, and judge it."""
    rng = random.Random(f"{seed}/{number}")
    cut = rng.choice(recording.cuts())
    fate = Fate(rng)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    image = build_image(recording, cut, fate)
    for name, content in image.items():
        (folder / name).write_bytes(content)
    has_loss = image != build_image(recording, cut, _KeepAll())
    return Case(seed, number, cut, fate.mode, has_loss, _judge_folder(folder, recording, cut))


def _judge_folder(folder: Path, recording: Recording, cut: int) -> list[Violation]:
    """The engine opens the image first, by its own rules; then the judge looks; then the engine goes on."""
    path = folder / DATABASE
    try:
        engine = SQLiteEngine.shared(path, clock=FakeClock(datetime(2100, 1, 1, tzinfo=UTC)))
    except StoreDamaged as error:
        return [Violation(CORRUPT, str(error))]
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
        return [Violation(STUCK, f"the image cannot be opened: {error!r}")]
    with contextlib.closing(engine):
        found = judge(path, recording, cut)
        if found:
            return found
        with reading(path) as connection:
            before = read_rows(connection)
        try:
            probe = _go_on(engine)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
            return [Violation(STUCK, repr(error))]
        return judge_end(path, before, probe)


def _go_on(engine: SQLiteEngine) -> str:
    """Do as the next worker does: rescue what the dead one held, and finish everything; returns a new task's id."""
    probe = new_task("f" * 32, durable=True)
    engine.submit([probe])
    worker = engine.register(slots=1)
    engine.rescue(worker.id)
    request = ClaimRequest(owner=worker.id, free={PoolKind.THREAD: 10_000})
    claims = engine.exchange((), request).claims
    while claims:
        claims = engine.exchange([settlement_of(claim, "completed", b"1") for claim in claims], request).claims
    worker.close()
    return str(probe.id)


# The workload: runs in the recorded child


def new_task(task_id: str, *, durable: bool, priority: int = 10, max_retries: int = 1, **more: Any) -> Any:
    """Return a ``NewTask``; its function is never called."""
    spec = TaskSpec(
        name="noop",
        function="math:factorial",
        queue="plain",
        pool=PoolKind.THREAD,
        priority=priority,
        max_retries=max_retries,
        durable=durable,
        **more,
    )
    return NewTask(TaskId(task_id), b"{}", spec)


def settlement_of(claim: Claim, outcome: str, result: bytes | None, at: datetime | None = None) -> Any:
    """Return the settlement of an attempt that ended as *outcome*."""
    is_error = outcome in _COUNTED
    ending = Ending(
        AttemptOutcome(outcome),
        started_at=claim.claimed_at,
        finished_at=at or claim.claimed_at,
        encoded_result=result if outcome == "completed" else None,
        error=TaskError(type="ValueError", message="no") if is_error else None,
        after_s=2.0 if outcome == "snoozed" else None,
    )
    return settle(claim, ending, backoff_s=3.0)


class Marker:
    """Writes the marks between which an operation happens; they take their place in the recording's total order."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / MARKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._mutex = threading.Lock()
        self._count = 0

    def begin(self, moves: Sequence[tuple[str, bool, State]]) -> int:
        """Say what is about to be done; returns the operation's number."""
        with self._mutex:
            self._count += 1
            self._write({"begin": self._count, "moves": list(moves)})
            return self._count

    def done(self, number: int) -> None:
        """Say that the engine has acknowledged the operation."""
        with self._mutex:
            self._write({"done": number})

    @contextlib.contextmanager
    def around(self, moves: Sequence[tuple[str, bool, State]]) -> Iterator[None]:
        """Mark the block, which ends with the acknowledgement."""
        number = self.begin(moves)
        yield
        self.done(number)

    def _write(self, mark: dict[str, Any]) -> None:
        os.write(self._descriptor, json.dumps(mark).encode() + b"\n")


@dataclass(slots=True)
class Known:
    """What the workload knows of one of its tasks."""

    durable: bool
    status: str = "open"
    attempts: list[list[Any]] = field(default_factory=list)
    is_cancelling: bool = False

    def state(self) -> State:
        return [self.status, [list(attempt) for attempt in self.attempts]]


class Workload:
    """A client and a worker of the real engine that do one thing after the other, as a seed tells them."""

    def __init__(self, path: Path, seed: int, arm: str) -> None:
        self._path = path
        self._rng = random.Random(seed)
        self._arm = arm
        self._marker = Marker(path.parent)
        self._clock = FakeClock()
        self._tasks: dict[str, Known] = {}
        self._held: list[Claim] = []
        self._engine: SQLiteEngine
        self._worker: SQLiteRegistration
        self._actions: list[tuple[Callable[[], None], int]] = [
            (self._submit_one, 8),
            (self._submit_many, 2),
            (self._work, 9),
            (self._retry, 2),
            (self._cancel, 3),
            (self._report_progress, 1),
            (self._give_back, 1),
            (self._die, 1),
            (self._prune, 1),
            (self._checkpoint, 2),
        ]

    def run(self) -> None:
        """Work alone, close, work as an application with a real worker, open again, work alone and in threads."""
        self._open()
        self._work_alone(45)
        self._close()
        if self._arm != "early":  # its commits come too late for another connection to see them
            self._work_as_application()
        self._open()
        self._work_alone(30)
        self._work_in_threads()
        self._work_alone(15)

    def _open(self) -> None:
        self._engine = SQLiteEngine.shared(self._path, clock=self._clock)
        self._worker = self._engine.register(slots=4)
        self._engine.rescue(self._worker.id)

    def _close(self) -> None:
        """What the worker still holds is rescued by the next one."""
        with self._marker.around(self._interrupted()):
            self._worker.close()
            self._engine.close()

    def _work_alone(self, steps: int) -> None:
        actions, weights = zip(*self._actions, strict=True)
        for action in self._rng.choices(actions, weights, k=steps):
            self._clock.advance(1)
            action()

    def _submit_one(self) -> None:
        durable = self._is_durable()
        due = self._clock.now() + timedelta(seconds=self._rng.choice((0, 0, 0, 5)))
        task = new_task(self._new_id(), durable=durable, priority=self._rng.choice((0, 10, 20)), run_at=due)
        with self._marker.around([self._known(task.id, durable)]):
            self._engine.submit([task])

    def _submit_many(self) -> None:
        durable = self._is_durable()
        tasks = [new_task(self._new_id(), durable=durable) for _ in range(self._rng.randint(2, 25))]
        with self._marker.around([self._known(task.id, durable) for task in tasks]):
            self._engine.submit(tasks)

    def _work(self) -> None:
        """Settle some of what is held and claim more, in one transaction."""
        self._rng.shuffle(self._held)
        ended = [self._held.pop() for _ in range(self._rng.randint(0, len(self._held)))]
        settlements = []
        for claim in ended:
            outcome = self._rng.choices(("completed", "failed", "cancelled", "snoozed"), (7, 3, 1, 1))[0]
            settlements.append(settlement_of(claim, outcome, b"%d" % claim.seq, self._clock.now()))
        request = ClaimRequest(
            owner=self._worker.id,
            free={PoolKind.THREAD: self._rng.randint(1, 8)},
            queues=frozenset({"plain"}),
        )
        with self._marker.around([self._ended(settlement) for settlement in settlements]):
            exchange = self._engine.exchange(settlements, request)
        assert all(exchange.recorded)
        self._held += exchange.claims

    def _ended(self, settlement: Any) -> tuple[str, bool, State]:
        claim, ending = settlement.claim, settlement.ending
        known = self._tasks[claim.id]
        if known.is_cancelling:
            known.attempts.append([claim.attempt, "cancelled", None])
            known.status = "cancelled"
        else:
            result = None if ending.encoded_result is None else ending.encoded_result.hex()
            known.attempts.append([claim.attempt, ending.outcome.value, result])
            known.status = settlement.status.value if settlement.status.is_finished else "open"
        return self._move(claim.id)

    def _retry(self) -> None:
        task = self._some(lambda known: known.status in _FINAL)
        if task is not None:
            self._tasks[task].status = "open"
            self._tasks[task].is_cancelling = False
            with self._marker.around([self._move(task)]):
                assert self._engine.retry(task)

    def _cancel(self) -> None:
        task = self._some(lambda known: known.status == "open" and not known.is_cancelling)
        if task is None:
            return
        if any(claim.id == task for claim in self._held):
            self._tasks[task].is_cancelling = True  # it ends as cancelled when its attempt does
        else:
            self._tasks[task].status = "cancelled"
        with self._marker.around([self._move(task)]):
            assert self._engine.cancel(task)

    def _report_progress(self) -> None:
        with self._marker.around([]):
            self._engine.record_progress([(claim, {"fraction": 0.5}) for claim in self._held])

    def _give_back(self) -> None:
        if self._held and not self._tasks[self._held[-1].id].is_cancelling:
            with self._marker.around([]):
                self._engine.give_back([self._held.pop()])

    def _die(self) -> None:
        """The worker goes away while it holds tasks; the next one rescues them."""
        moves = self._interrupted()
        with self._marker.around(moves):
            self._worker.close()
            self._worker = self._engine.register(slots=4)
            assert len(self._engine.rescue(self._worker.id)) == len(moves)

    def _interrupted(self) -> list[tuple[str, bool, State]]:
        moves: list[tuple[str, bool, State]] = []
        for claim in self._held:
            known = self._tasks[claim.id]
            known.attempts.append([claim.attempt, "interrupted", None])
            known.status = "cancelled" if known.is_cancelling else "open"
            moves.append((claim.id, False, known.state()))
        self._held.clear()
        return moves

    def _prune(self) -> None:
        finished = [task for task, known in self._tasks.items() if known.status in _FINAL]
        if len(finished) > 40:
            self._clock.advance(1)
            with self._marker.around([(task, False, None) for task in finished]):
                self._engine.delete_finished(before=self._clock.now())
            for task in finished:
                del self._tasks[task]

    def _checkpoint(self) -> None:
        """Move the log as the engine does, but at a moment of our choice; the next commit starts the log anew."""
        LateCommits.commit_now()
        checkpointer = Checkpointer(self._path, self._path.with_name(f"{DATABASE}.run") / "checkpoint.lock")
        checkpointer.checkpoint()
        checkpointer.stop()

    def _work_in_threads(self) -> None:
        """Callers that arrive together share commits, full and relaxed ones alike."""
        together = threading.Barrier(4)
        plans = [[(self._new_id(), self._is_durable()) for _ in range(6)] for _ in range(4)]

        def submit(plan: list[tuple[str, bool]]) -> None:
            together.wait()
            for task, durable in plan:
                with self._marker.around([(task, self._is_promised(durable), ["open", []])]):
                    self._engine.submit([new_task(task, durable=durable)])

        threads = [threading.Thread(target=submit, args=(plan,)) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for plan in plans:
            self._tasks.update({task: Known(durable) for task, durable in plan})

    def _work_as_application(self) -> None:
        """The public way: a manager with a real worker; an outcome is acknowledged when ``result`` returns."""
        with BackgroundTaskManager(max_workers=2, database=self._path, queues=["public"]) as manager:
            for number in range(8):
                task, durable = self._new_id(), self._is_durable()
                promised = self._is_promised(durable)
                submitted = self._marker.begin([(task, promised, ["open", []])])
                finished = self._marker.begin([(task, promised, ["completed", [[1, "completed", "*"]]])])
                durability = "full" if durable else "relaxed"
                submitter = manager.options(queue="public", durability=durability, task_id=task)
                handle = submitter.submit(factorial, number)
                self._marker.done(submitted)
                assert handle.result(timeout=30) == factorial(number)
                self._marker.done(finished)
                self._tasks[task] = Known(durable, "completed", [[1, "completed", "*"]])

    def _is_durable(self) -> bool:
        return self._arm != "relaxed" and self._rng.random() < 0.8

    def _is_promised(self, durable: bool) -> bool:
        return durable or self._arm == "relaxed"

    def _new_id(self) -> str:
        return f"{self._rng.getrandbits(128):032x}"

    def _known(self, task: str, durable: bool) -> tuple[str, bool, State]:
        self._tasks[task] = Known(durable)
        return self._move(task)

    def _move(self, task: str) -> tuple[str, bool, State]:
        known = self._tasks[task]
        return task, self._is_promised(known.durable), known.state()

    def _some(self, wanted: Callable[[Known], bool]) -> str | None:
        found = [task for task, known in self._tasks.items() if wanted(known)]
        return self._rng.choice(found) if found else None


# The planted faults


class NormalForFull(sqlite3.Connection):
    """Commits that should reach the disk do not."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute(sql.replace("synchronous = FULL", "synchronous = NORMAL"), *parameters)


class NeverSync(sqlite3.Connection):
    """Not even a checkpoint waits for the disk."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        super().execute("PRAGMA synchronous = OFF")

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute("PRAGMA synchronous = OFF" if "synchronous" in sql else sql, *parameters)


class LateCommits(sqlite3.Connection):
    """COMMIT returns at once, so that callers are told too early; the commit comes with the next statement."""

    late: "LateCommits | None" = None

    @classmethod
    def commit_now(cls) -> None:
        """Let what is late happen, for who needs the write lock on another connection."""
        late, cls.late = cls.late, None
        if late is not None:
            sqlite3.Connection.execute(late, "COMMIT")

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if type(self).late is self:
            self.commit_now()
        if sql == "COMMIT" and self.total_changes:
            type(self).late = self
            return super().execute("SELECT 1")
        return super().execute(sql, *parameters)

    def close(self) -> None:
        if type(self).late is self:
            self.commit_now()
        super().close()


_PLANTS = {"normal": NormalForFull, "early": LateCommits, "off": NeverSync}


def _run_workload(folder: Path, seed: int, arm: str) -> None:
    """Run in the recorded child; ends like a killed process, so that no close tidies up."""
    connection.LOG_LIMIT_BYTES = 96 * 1024  # so that the log is also cut, as a long one is
    if arm in _PLANTS:
        sqlite3.connect = functools.partial(sqlite3.connect, factory=_PLANTS[arm])  # type: ignore[assignment]
    Workload(folder / DATABASE, seed, arm).run()
    os._exit(0)


# Many images


@dataclass(slots=True)
class Tally:
    """What was found in the images of one arm."""

    arm: str
    images: int = 0
    losses: int = 0
    """Images in which something that was written is missing."""
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    """How many images show each kind of violation."""
    modes: Counter[str] = field(default_factory=Counter)
    recorded: Counter[str] = field(default_factory=Counter)
    cases: list[Case] = field(default_factory=list)
    """The first images that show any, as examples."""

    def add(self, case: Case) -> None:
        self.images += 1
        self.losses += case.has_loss
        self.modes[case.mode] += 1
        self.kinds.update({violation.kind for violation in case.violations})
        if case.violations and len(self.cases) < 5:
            self.cases.append(case)

    def figures(self) -> dict[str, Any]:
        """Return all of it as JSON can say it."""
        return {
            "arm": self.arm,
            "images": self.images,
            "losses": self.losses,
            "seconds": round(self.seconds, 1),
            "kinds": dict(self.kinds),
            "modes": dict(self.modes),
            "recorded": dict(self.recorded),
            "cases": [asdict(case) for case in self.cases],
        }

    def __str__(self) -> str:
        found = ", ".join(f"{count} x {kind}" for kind, count in self.kinds.most_common()) or "0 violations"
        judged = f"{self.images} images ({self.losses} with losses) judged in {self.seconds:.1f} s"
        return f"power loss, {self.arm}: {judged}: {found}"


def run_arm(
    arm: str,
    *,
    images: int,
    seed: int,
    folder: Path,
    images_per_recording: int = IMAGES_PER_RECORDING,
    until: str | None = None,
    tell: Callable[[Tally], None] = lambda _tally: None,
) -> Tally:
    """Judge *images* of *arm*, each recording with its own seed; ends early at a violation of kind *until*.

    A recording in which something was found stays in *folder*, so that its images can be built again.
    """
    tally = Tally(arm)
    started = time.monotonic()
    while tally.images < images and not (until and tally.kinds[until]):
        number = tally.images // images_per_recording
        kept = folder / f"{arm}-{seed + number}"
        kept.mkdir(parents=True)
        recording = record(kept, seed=seed + number, arm=arm)
        tally.recorded.update(recording.calls())
        before = sum(tally.kinds.values())
        for image in range(min(images_per_recording, images - tally.images)):
            tally.add(judge_image(recording, kept / "image", seed=seed + number, number=image))
            tally.seconds = time.monotonic() - started
            tell(tally)
            if until and tally.kinds[until]:
                break
        if sum(tally.kinds.values()) == before:
            shutil.rmtree(kept)
    return tally


# The harness


class PowerLoss:
    """Images of power losses; one image is one case."""

    name = "power-loss"
    what = "what a disk may hold after a power loss at any moment: un-synced writes kept, dropped, torn and reordered"
    controls: Mapping[str, int] = dict.fromkeys(CONTROLS, IMAGES_PER_RECORDING)

    def why_not(self) -> str | None:
        """Return why nothing can be recorded on this machine."""
        return why_no_strace()

    @contextlib.contextmanager
    def open(self, folder: Path, kept: Path, seed: int, fault: str | None = None) -> Iterator["Images"]:
        """Take the engine as it is, or one of the broken variants."""
        yield Images(folder, kept, seed, fault or "full")


class Images:
    """The images of recordings, each of which has a seed of its own.

    A recorded process has threads, so its seed does not make the same recording again: those that have shown something
    are kept, and their images are built from there.
    """

    cases: int | None = None

    def __init__(self, folder: Path, kept: Path, seed: int, arm: str) -> None:
        self._folder = folder
        self._kept = kept
        self._seed = seed
        self._arm = arm
        self._recordings: dict[int, Recording] = {}

    def judge(self, number: int) -> Verdict:
        """Build image *number* and judge it."""
        recording_number, image = divmod(number, IMAGES_PER_RECORDING)
        seed = self._seed + recording_number
        is_new = recording_number not in self._recordings
        recording = self._recording(recording_number, seed)
        case = judge_image(recording, self._folder / "image", seed=seed, number=image)
        wanted = CONTROLS.get(self._arm)
        found = [each for each in case.violations if wanted in (None, each.kind)]
        if found and self._arm == "full":
            shutil.copytree(self._folder / str(seed), self._kept / str(seed), dirs_exist_ok=True)
        figures = {"images": 1, "with losses": int(case.has_loss)}
        if is_new:
            figures["recorded writes"] = recording.calls()["writes"]
        return Verdict(
            figures=figures,
            violations=[checker.Violation(each.kind, each.text) for each in found],
            story=[f"{self._arm}, recording {seed}, image {image}: the power fails at {case.cut}, {case.mode}"],
        )

    def _recording(self, number: int, seed: int) -> Recording:
        if number not in self._recordings:
            self._recordings.clear()  # each is some megabytes
            shutil.rmtree(self._folder, ignore_errors=True)
            folder, kept = self._folder / str(seed), self._kept / str(seed)
            if kept.exists():
                recording = read_trace(kept / "trace", Path((kept / ORIGIN).read_text()))
            else:
                folder.mkdir(parents=True)
                recording = record(folder, seed=seed, arm=self._arm)
            self._recordings[number] = recording
        return self._recordings[number]


if __name__ == "__main__":
    _run_workload(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
