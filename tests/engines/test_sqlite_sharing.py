"""Many threads, engines and processes on one file: shared commits, wake-ups, and one owner of the checkpoints."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

import pytest

from thirdshift.core.engine import Announced, ClaimRequest, TaskFilter
from thirdshift.core.errors import StoreBusy, StoreError
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import PoolKind, TaskId
from thirdshift.engines.sqlite import SQLiteEngine, checkpoint, writer
from thirdshift.engines.sqlite import engine as sqlite_engine
from thirdshift.engines.sqlite.checkpoint import Checkpointer
from thirdshift.engines.sqlite.connection import LOG_LIMIT_BYTES
from thirdshift.engines.sqlite.wake import FINISHED, WORK, WakeHub
from thirdshift.engines.sqlite.writer import Writer
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.conformance import new_task

Connect = Callable[[], sqlite3.Connection]
LONG_S = 120.0
"""Reached only when something is broken."""


@pytest.fixture
def shared_writer(engine: SQLiteEngine) -> Writer:
    return engine._writer


def note(value: int) -> Callable[[sqlite3.Connection], None]:
    """An operation that leaves a trace: a queue of that name."""
    return lambda connection: connection.execute("INSERT INTO queue (name) VALUES (?)", [str(value)])


def noted(path: Path) -> set[int]:
    with closing(sqlite3.connect(path)) as connection:
        return {int(name) for (name,) in connection.execute("SELECT name FROM queue")}


@contextmanager
def held_up(writer: Writer) -> Iterator[Callable[[int], None]]:
    """Keep the writer busy on another thread until the block ends; yields a wait for *n* callers in its queue."""
    is_in, may_end = threading.Event(), threading.Event()

    def wait_inside(_connection: sqlite3.Connection) -> None:
        is_in.set()
        may_end.wait(LONG_S)

    def wait_for_queue(length: int) -> None:
        while len(writer._waiting) < length:
            may_end.wait(0.001)

    with ThreadPoolExecutor(1) as leader:
        leading = leader.submit(writer.run, wait_inside, durable=False)
        assert is_in.wait(LONG_S)
        try:
            yield wait_for_queue
        finally:
            may_end.set()
        leading.result(LONG_S)


def test_threads_share_commits(shared_writer: Writer, path: Path) -> None:
    """Callers that arrive while another one writes are committed together."""
    with ThreadPoolExecutor(16) as threads:
        with held_up(shared_writer) as wait_for_queue:
            before = shared_writer.commits
            callers = [threads.submit(shared_writer.run, note(n), durable=True) for n in range(16)]
            wait_for_queue(16)
        for caller in callers:
            caller.result(LONG_S)
    assert shared_writer.commits - before == 2  # the one that was held up, and one for all the others
    assert noted(path) == set(range(16))


def test_submitting_threads_make_fewer_commits_than_submits(engine: SQLiteEngine) -> None:
    """Through the engine, without a hand on the scales."""
    before = engine._writer.commits
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: engine.submit([new_task()]), range(320)))
    assert engine.counts()[TaskStatus.PENDING] == 320
    assert engine._writer.commits - before < 320


@pytest.mark.parametrize("bad_value", [None, object(), "\ud800", 2**64, "0"])
def test_a_bad_operation_fails_alone(shared_writer: Writer, path: Path, bad_value: Any) -> None:
    """A broken rule, a wrong type, half a character, a number too large: its neighbours are committed."""
    shared_writer.run(note(0), durable=False)

    def bad(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO queue (name, paused_at) VALUES ('first half', 1)")
        connection.execute(
            "INSERT INTO worker (id, pid, host, started_at, slots) VALUES (?, 1, 'host', 1, 1)", [bad_value]
        )
        connection.execute("INSERT INTO queue (name) VALUES ('0')")

    with ThreadPoolExecutor(8) as threads:
        with held_up(shared_writer) as wait_for_queue:
            callers = [threads.submit(shared_writer.run, note(n), durable=False) for n in range(1, 4)]
            wait_for_queue(3)
            failing = threads.submit(shared_writer.run, bad, durable=False)
            wait_for_queue(4)
            callers += [threads.submit(shared_writer.run, note(n), durable=False) for n in range(4, 7)]
            wait_for_queue(7)
        with pytest.raises((sqlite3.Error, OverflowError, UnicodeEncodeError)) as caught:
            failing.result(LONG_S)
        assert not isinstance(caught.value, StoreError)
        for caller in callers:
            caller.result(LONG_S)
    assert noted(path) == set(range(7))
    shared_writer.run(note(7), durable=True)


def test_an_error_of_the_caller_is_the_callers(shared_writer: Writer, path: Path) -> None:
    """It comes back as it is, and what the operation did is undone."""

    def raising(connection: sqlite3.Connection) -> None:
        note(1)(connection)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        shared_writer.run(raising, durable=True)
    assert noted(path) == set()


class Interrupted(BaseException):
    """What a signal handler raises, as Ctrl-C does."""


@contextmanager
def interruptions(*functions: str) -> Iterator[list[str]]:
    """Interrupt the main thread all the time while it is in one of these *functions*; yields where it was."""
    where: list[str] = []

    def interrupt(_number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_name in functions:
            where.append(frame.f_code.co_name)
            raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        yield where
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_caller_takes_nobody_with_it(shared_writer: Writer, path: Path) -> None:
    """Ctrl-C in a commit or while waiting for one: the others are written exactly once, and nobody waits for ever."""
    runs: dict[int, int] = {}
    is_over = threading.Event()

    def others(first: int) -> int:
        number = first
        while not is_over.is_set():
            number += 4
            runs[number] = 0
            rows = shared_writer.run(counted(number), durable=True)
            assert rows == 1
        return number

    def counted(number: int) -> Callable[[sqlite3.Connection], int]:
        return lambda connection: (
            connection.execute("INSERT INTO queue (name, paused_at) VALUES (?, 1)", [str(number)]).rowcount
        )

    with ThreadPoolExecutor(3) as threads:
        ends = [threads.submit(others, first) for first in (1, 2, 3)]
        with interruptions("_end", "_wait_for_turn") as where:
            number = 0
            while min(where.count("_end"), where.count("_wait_for_turn")) < 20 and number < 40_000:
                number += 4
                with suppress(Interrupted):
                    shared_writer.run(counted(number), durable=True)
        is_over.set()
        for end in ends:
            end.result(LONG_S)
    assert where.count("_end") >= 20
    assert where.count("_wait_for_turn") >= 20
    assert set(runs) <= noted(path)
    shared_writer.run(note(-1), durable=True)


def test_two_processes_make_a_new_file_together(path: Path, tmp_path: Path) -> None:
    """Whoever comes first makes the schema; the other one finds it."""
    code = (
        "import sys, pathlib; from thirdshift.engines.sqlite import SQLiteEngine;"
        "from thirdshift.testing.clock import FakeClock; from thirdshift.testing.conformance import new_task;"
        "sys.stdin.read(1)\n"
        "for n in range(10):\n"
        "    engine = SQLiteEngine.shared(pathlib.Path(sys.argv[1]) / f'{n}.db', clock=FakeClock())\n"
        "    engine.submit([new_task(id=sys.argv[2] * 32)]); engine.close()\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code, tmp_path, digit], stdin=subprocess.PIPE)
        for digit in "abc"
    ]
    for child in children:  # all of them before the first one is waited for
        assert child.stdin is not None
        child.stdin.write(b"x")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=LONG_S)
    assert [child.returncode for child in children] == [0, 0, 0]
    for number in range(10):
        with closing(sqlite3.connect(tmp_path / f"{number}.db")) as connection:
            assert connection.execute("SELECT count(*) FROM task").fetchone() == (3,)


def test_the_switch_to_the_log_waits_for_whoever_writes(path: Path, clock: FakeClock, stranger: Connect) -> None:
    """SQLite refuses it at once; so one of two processes that made a new file together was told that it is locked."""
    SQLiteEngine.shared(path, clock=clock).close()
    other = stranger()
    assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as threads:
        opening = threads.submit(SQLiteEngine.shared, path, clock=clock)
        assert not wait([opening], timeout=0.2).done
        other.execute("ROLLBACK")
        opening.result(LONG_S).close()
    assert stranger().execute("PRAGMA journal_mode").fetchone() == ("wal",)


OTHER_PROCESS = """
import pathlib, sys, threading
from thirdshift.core.engine import ClaimRequest
from thirdshift.core.task import PoolKind
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.runtime.clock import SystemClock
engine = SQLiteEngine.shared(pathlib.Path(sys.argv[1]), clock=SystemClock())
woken = threading.Event()
engine.on_work(woken.set, lambda announced: woken.set())
worker = engine.register(slots=1)
print("ready", flush=True)
woken.wait()
claims = engine.exchange([], ClaimRequest(owner=worker.id, free={PoolKind.THREAD: 9})).claims
print(*[claim.id for claim in claims], flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker in another process that claims when it is woken."""
    command = [sys.executable, "-c", OTHER_PROCESS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("depth", [0, 8])
def test_a_submit_wakes_a_worker_in_another_process(tmp_path: Path, depth: int) -> None:
    """By a socket, also where the path is longer than a socket address; two processes share one file."""
    folder = tmp_path.joinpath(*["a-folder-with-a-long-name"] * depth)
    engine = SQLiteEngine.shared(folder / "tasks.db", clock=FakeClock())
    with other_process(folder / "tasks.db") as process:
        task = new_task()
        engine.submit([task])
        assert process.stdout is not None
        assert process.stdout.readline() == f"{task.id}\n"
        found = engine.get(task.id)
        assert found is not None
        assert found.status is TaskStatus.RUNNING
    dead = engine.register(slots=1)
    assert [rescue.id for rescue in engine.rescue(dead.id)] == [task.id]
    dead.close()
    engine.close()


def test_a_socket_of_a_dead_process_is_cleaned_up(
    engine: SQLiteEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next announcement finds that nobody listens."""
    stale = path.with_name("tasks.db.run") / f"{'d' * 32}.{WORK}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as forgotten:
        monkeypatch.chdir(stale.parent)
        forgotten.bind(stale.name)
    engine.submit([new_task()])
    assert not stale.exists()


def test_a_submit_succeeds_where_nobody_can_be_woken(engine: SQLiteEngine, path: Path) -> None:
    """The task is committed; that its announcement failed is no error of the submit."""
    path.with_name("tasks.db.run").rename(path.with_name("moved"))
    engine.submit([new_task()])
    worker_id = "f" * 32
    assert len(engine.exchange([], ClaimRequest(owner=worker_id, free={PoolKind.THREAD: 1})).claims) == 1
    path.with_name("moved").rename(path.with_name("tasks.db.run"))


def test_a_single_other_process_learns_which_task_is_new(tmp_path: Path) -> None:
    """With more of them all but one would come too late: each had better look first."""
    names = "abcd"
    first, second, speaker, third = (WakeHub(tmp_path, name * 32) for name in names)
    heard: SimpleQueue[tuple[str, Announced | None]] = SimpleQueue()
    task = Announced(TaskId("1" * 32), "a queue\nof \N{SNOWMAN} and \udc80", PoolKind.PROCESS)

    def listen(name: str, hub: WakeHub) -> None:
        hub.listen(WORK, lambda: None, lambda announced: heard.put((name, announced)))

    listen("first", first)
    speaker.announce_task(task)
    assert heard.get(timeout=LONG_S) == ("first", task)
    speaker.announce_task(task._replace(queue="q" * 2_000))  # more than a datagram holds
    assert heard.get(timeout=LONG_S) == ("first", None)
    speaker.announce(WORK)
    assert heard.get(timeout=LONG_S) == ("first", None)
    listen("second", second)
    speaker.announce_task(task)
    assert {heard.get(timeout=LONG_S) for _ in range(2)} == {("first", None), ("second", None)}
    listen("third", third)
    for hub in (first, second, third, speaker):
        hub.close()


@pytest.mark.parametrize("message", [b"", b"?", b"!\xff", b"!one line", b"!id\nno such pool\nqueue", b"!" * 2_000])
def test_a_message_that_nobody_understands_is_an_announcement_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: bytes
) -> None:
    """But for an empty one, and a question."""
    listener = WakeHub(tmp_path, "a" * 32)
    heard: SimpleQueue[Announced | None] = SimpleQueue()
    listener.listen(WORK, lambda: None, heard.put)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as stranger:
        monkeypatch.chdir(tmp_path)
        stranger.sendto(message, f"{'a' * 32}.{WORK}")
        if message not in (b"", b"?"):
            assert heard.get(timeout=LONG_S) is None
        stranger.sendto(b"!", f"{'a' * 32}.{WORK}")
        assert heard.get(timeout=LONG_S) is None
    listener.close()


def test_wake_ups_reach_descriptors_above_1023(tmp_path: Path) -> None:
    """A server with many connections is woken like any other."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1_200:
        pytest.skip(f"this machine allows {hard} descriptors only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1_200), hard))
    many = [os.open("/dev/null", os.O_RDONLY) for _ in range(1_030)]
    try:
        listener, speaker = WakeHub(tmp_path, "a" * 32), WakeHub(tmp_path, "b" * 32)
        heard = threading.Event()
        listener.listen(FINISHED, heard.set)
        speaker.announce(FINISHED)
        assert heard.wait(LONG_S)
        listener.close()
        speaker.close()
    finally:
        for descriptor in many:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_closing_wakes_who_waits(tmp_path: Path) -> None:
    """They find out that it is closed instead of waiting on."""
    hub = WakeHub(tmp_path, "a" * 32)
    heard = threading.Event()
    hub.listen(FINISHED, heard.set)
    hub.close()
    assert heard.is_set()


def test_a_long_log_is_checkpointed_while_writers_write(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log does not grow without end under steady load, and is left alone once nothing more is written."""
    monkeypatch.setattr(checkpoint, "_INTERVAL_S", 0.01)
    engine = SQLiteEngine.shared(path, clock=clock)
    checkpointer = engine._checkpointer
    is_over = threading.Event()
    written = [0, 0]

    def write(number: int) -> None:
        while not is_over.is_set():
            engine.submit([new_task(durable=False, arguments=b"[1,[],{}]" + b" " * 50_000) for _ in range(4)])
            written[number] += 4

    with ThreadPoolExecutor(2) as threads:
        writing = [threads.submit(write, number) for number in range(2)]
        try:
            for _ in range(2_000):
                if checkpointer.checkpoints >= 5 and sum(written) * 50_000 > 5 * LOG_LIMIT_BYTES:
                    break
                is_over.wait(0.01)
        finally:
            is_over.set()
        for each in writing:
            each.result(LONG_S)
    assert checkpointer.checkpoints >= 5
    assert engine.counts()[TaskStatus.PENDING] == sum(written)
    engine.submit([new_task(arguments=b"[1,[],{}]" + b" " * 900_000) for _ in range(8)])
    assert checkpointer.log_size_bytes() > LOG_LIMIT_BYTES
    for _ in range(2_000):
        if not checkpointer._is_due():
            break
        threading.Event().wait(0.01)
    quiet = checkpointer.checkpoints
    threading.Event().wait(0.2)
    assert checkpointer.checkpoints <= quiet + 1
    engine.submit([new_task()])
    assert checkpointer.log_size_bytes() <= LOG_LIMIT_BYTES
    engine.close()


def test_one_process_at_a_time_owns_the_checkpoints(engine: SQLiteEngine, path: Path) -> None:
    """The lock passes on when the owner ends, also by kill -9."""
    code = (
        "import pathlib, sys; from thirdshift.engines.sqlite.checkpoint import Checkpointer;"
        "path = pathlib.Path(sys.argv[1]);"
        "owner = Checkpointer(path, path.with_name('tasks.db.run') / 'checkpoint.lock');"
        "print(owner.checkpoint(), flush=True); sys.stdin.read()"
    )
    engine.submit([new_task()])
    ours = engine._checkpointer
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert not ours.checkpoint()
        other.kill()
    assert ours.checkpoint()
    second = Checkpointer(path, path.with_name("tasks.db.run") / "checkpoint.lock")
    assert not second.checkpoint()
    ours.stop()
    assert second.checkpoint()
    second.stop()


def test_a_change_of_many_leaves_the_write_lock_to_others_in_between(
    engine: SQLiteEngine, stranger: Callable[[], sqlite3.Connection]
) -> None:
    """After every batch, which is small, another program can write at once."""
    engine.submit([new_task(arguments=b"[1,[],{}]" + b" " * 4_000) for _ in range(1_200)])
    other = stranger()
    other.execute("PRAGMA busy_timeout = 0")
    done: list[int] = []

    def report(so_far: int, _total: int) -> None:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        done.append(so_far)

    for change in (engine.cancel_all, engine.retry_all, engine.cancel_all, engine.delete_all):
        assert change(TaskFilter(), report) == 1_200
        assert done == [500, 1_000, 1_200]
        done.clear()
    engine.vacuum(report)
    assert len(done) > 3


def test_the_watch_outlives_a_failed_look(path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be looked at now is looked at again later."""
    monkeypatch.setattr(checkpoint, "_INTERVAL_S", 0.005)
    engine = SQLiteEngine.shared(path, clock=clock)
    checkpointer = engine._checkpointer
    log, checkpointer._log_path = checkpointer._log_path, path / "not a folder"
    engine.submit([new_task(arguments=b"[1,[],{}]" + b" " * 500_000) for _ in range(10)])
    threading.Event().wait(0.1)
    checkpointer._log_path = log
    for _ in range(2_000):
        if checkpointer.checkpoints:
            break
        threading.Event().wait(0.01)
    assert checkpointer.checkpoints
    engine.close()


@pytest.mark.alone
def test_a_forked_child_uses_the_parents_engine(engine: SQLiteEngine, path: Path) -> None:
    """With connections of its own."""
    engine.submit([new_task()])
    child = os.fork()
    if child == 0:
        try:
            engine.submit([new_task(id="a" * 32), new_task(id="b" * 32)])
            os._exit(engine.counts()[TaskStatus.PENDING])
        finally:
            os._exit(99)
    engine.submit([new_task()])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (3, 4)
    assert engine.counts()[TaskStatus.PENDING] == 4


@pytest.mark.alone
def test_a_fork_does_not_wait_for_ever_for_a_locked_file(
    engine: SQLiteEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program holds the lock, and a thread of ours waits for it: the child is refused the file, with reason."""
    monkeypatch.setattr(sqlite_engine, "_QUIET_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor(1) as threads:
        other.execute("BEGIN IMMEDIATE")
        submitting = threads.submit(engine.submit, [new_task()])
        while not engine._writer._is_led:
            threading.Event().wait(0.001)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            answer = "nothing was raised"
            try:
                engine.counts()
            except StoreError as error:
                answer = str(error)
            finally:
                os.write(writing, answer.encode())
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as answer_of_child:
            assert b"could not be closed" in answer_of_child.read()
        os.waitpid(child, 0)
        other.execute("ROLLBACK")
        submitting.result(LONG_S)
    assert engine.counts()[TaskStatus.PENDING] == 1


@pytest.mark.alone
def test_a_fork_outlasts_who_waits_for_a_locked_file(
    engine: SQLiteEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of ours that cannot commit gives up before the fork does, so the child has the file as any other has."""
    assert sqlite_engine._QUIET_S > 2 * writer.BUSY_LIMIT_S
    monkeypatch.setattr(writer, "BUSY_LIMIT_S", 0.2)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor(1) as threads:
        other.execute("BEGIN IMMEDIATE")
        submitting = threads.submit(engine.submit, [new_task()])
        while not engine._writer._is_led:
            threading.Event().wait(0.001)
        child = os.fork()
        if child == 0:
            try:
                os._exit(engine.counts()[TaskStatus.PENDING])
            finally:
                os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(StoreBusy, match="If there is none, the disk"):
            submitting.result(LONG_S)
        other.execute("ROLLBACK")


@pytest.mark.alone
def test_a_fork_waits_for_who_reads_the_whole_file(engine: SQLiteEngine) -> None:
    """A connection that crossed a fork, and SQLite's own locks of that moment, would hold up the child for ever."""
    order, is_reading, may_end = [], threading.Event(), threading.Event()

    def read() -> None:
        with engine._long_reader():
            is_reading.set()
            assert may_end.wait(LONG_S)
            order.append("read")

    def fork() -> None:
        child = os.fork()
        if child == 0:
            os._exit(engine.counts()[TaskStatus.PENDING])
        order.append("forked")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    with ThreadPoolExecutor(2) as threads:
        reading = threads.submit(read)
        assert is_reading.wait(LONG_S)
        forking = threads.submit(fork)
        while not engine._long_readers._is_shut:
            threading.Event().wait(0.001)
        may_end.set()
        reading.result(LONG_S)
        forking.result(LONG_S)
    assert order == ["read", "forked"]
    with engine._long_reader() as reader:
        assert reader.execute("SELECT count(*) FROM task").fetchone() == (0,)
