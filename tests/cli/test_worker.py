"""`thirdshift worker`, as a process of its own: what it says, how it ends, and that nothing is lost on the way."""

import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import pytest

from thirdshift import BackgroundTaskManager, TaskStatus
from thirdshift.apps.training.service.daemon import QUEUES
from thirdshift.apps.training.tasks import TRAINING_QUEUE
from thirdshift.cli import worker as command
from thirdshift.testing.signals import TIMEOUT_S, Signal

COMMAND = str(Path(sys.executable).with_name("thirdshift"))
FUNCTIONS = """
import os
from thirdshift.testing.signals import append, receive, send


def hold(said, released):
    send(said, f"started {os.getpid()}")
    receive(released)
    return "done"


def note(log, number):
    append(log, f"{number} {os.getpid()}")


def misspell():
    return os.nothing_of_this_name


def folder():
    import beside  # lies in --app-dir too
    return beside.WHERE
"""

Start = Callable[..., "Worker"]


class Worker:
    """A running command, whose standard error is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        self.stderr: IO[str] = process.stderr
        self.said = ""
        self._passed_over: list[str] = []

    def wait_for(self, words: str) -> str:
        """Return the first line that has *words* in it and was not returned before.

        Its threads say things in any order, so lines that an earlier wait has passed over count too.
        """
        for line in self._passed_over:
            if words in line:
                self._passed_over.remove(line)
                return line
        for line in self.stderr:
            self.said += line
            if words in line:
                return line
            self._passed_over.append(line)
        raise AssertionError(f"it ended without saying {words!r}: {self.said}")

    def end(self) -> int:
        """Return the exit code, once it has one."""
        _, rest = self.process.communicate(timeout=TIMEOUT_S)
        self.said += rest
        assert "Traceback" not in self.said, self.said
        return self.process.returncode


@pytest.fixture
def start(shell) -> Iterator[Start]:
    """Starts a worker of the workspace and waits until it works; what still runs is killed with the test."""
    with ExitStack() as stack:

        def begin(*arguments: str, cwd: Path = shell.folder, ready: str = "database") -> Worker:
            environment = {**os.environ, "THIRDSHIFT_WORKSPACE": str(shell.workspace)}
            process = stack.enter_context(
                subprocess.Popen(
                    [COMMAND, *arguments],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    cwd=cwd,
                    env=environment,
                )
            )
            stack.callback(process.kill)
            worker = Worker(process)
            if ready:
                worker.wait_for(ready)
            return worker

        yield begin


@pytest.fixture
def manager(shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackgroundTaskManager]:
    """Submits to the workspace and looks at it."""
    (shell.folder / "chores.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(shell.folder))
    with BackgroundTaskManager(database=shell.database, start=False) as manager:
        yield manager


def submit(manager: BackgroundTaskManager, function: str, *arguments: Any, **options: Any) -> str:
    """Submit a function of ``chores.py``, which this process imports anew."""
    sys.modules.pop("chores", None)
    import chores  # type: ignore[import-not-found]

    return manager.options(**options).submit(getattr(chores, function), *map(str, arguments)).id


def test_it_says_where_the_tasks_are_and_works(shell, start: Start, manager: BackgroundTaskManager) -> None:
    """The absolute path comes first; its people's name for it is seen by others."""
    slots = ["--threads", "2", "--processes", "0", "--coroutines", "0"]
    worker = start("worker", "--name", "mail-1", *slots, ready="stop ")
    assert f"database   {shell.database}\n" in worker.said
    assert re.search(r"worker     mail-1, process \d+; tasks at once: 2 in threads\n", worker.said)
    assert manager.handle(submit(manager, "note", shell.workspace / "log", 1)).result(TIMEOUT_S) is None
    (state,) = manager.workers()
    assert (state.name, state.pid, state.slots, state.is_alive) == ("mail-1", worker.process.pid, 2, True)
    assert f"mail-1 (process {state.pid}, 0 of 2 slots busy)" in shell("status").stdout
    worker.process.terminate()
    assert worker.end() == 0
    assert manager.workers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("pool", ["thread", "process"])
def test_the_first_signal_finishes_the_work_in_hand(
    shell, start: Start, manager: BackgroundTaskManager, number: signal.Signals, pool: str, tmp_path: Path
) -> None:
    """And leaves the rest to others; that is a graceful stop."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        in_hand = submit(manager, "hold", said.path, released.path, pool=pool)
        waiting = submit(manager, "hold", said.path, released.path, pool=pool, priority=0)
        worker = start("worker", "--threads", "1", "--processes", "1")
        said.wait()
        worker.process.send_signal(number)
        worker.wait_for(f"stopping after {number.name}")
        released.release()
        assert worker.end() == 0
    assert manager.handle(in_hand).result(0) == "done"
    assert manager.get_task_status(waiting) is TaskStatus.PENDING


@pytest.mark.parametrize(("pool", "number", "code"), [("thread", signal.SIGTERM, 143), ("process", signal.SIGINT, 130)])
def test_the_second_signal_stops_at_once(
    shell, start: Start, manager: BackgroundTaskManager, pool: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """What it interrupts is run again by the next worker, and uses up no retry; no child is left behind."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        interrupted = submit(manager, "hold", said.path, released.path, pool=pool, max_retries=0)
        worker = start("worker", "--threads", "1", "--processes", "1")
        pid = int(said.wait().removeprefix("started "))
        worker.process.send_signal(signal.SIGTERM)
        worker.wait_for("stopping after SIGTERM")
        worker.process.send_signal(number)
        assert worker.end() == code
        wait_until_gone(pid)
        second = start("worker", "--drain")
        said.wait()
        released.release()
        assert second.end() == 0
    task = manager.get_task(interrupted)
    assert task is not None
    assert [attempt.outcome.value for attempt in task.attempts] == ["interrupted", "completed"]


def wait_until_gone(pid: int) -> None:
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], TIMEOUT_S)[0], f"process {pid} was left behind"
        finally:
            os.close(descriptor)


def test_a_thread_that_does_not_end_holds_nothing_up(
    shell, start: Start, manager: BackgroundTaskManager, tmp_path: Path
) -> None:
    """After the time that the configuration gives it, the process ends beside it; the task runs again elsewhere."""
    (shell.workspace / "thirdshift.yaml").write_text("shutdown_timeout_seconds: 0.2\n")
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        task = submit(manager, "hold", said.path, released.path, max_retries=0)
        worker = start("worker", "--threads", "1")
        said.wait()
        worker.process.terminate()
        assert worker.end() == 0
        assert "at most 0.2 s" in worker.said
        assert "tasks still run in threads; they end with this process and are started again" in worker.said
        second = start("worker", "--drain")
        said.wait()
        released.release()
        assert second.end() == 0
    assert manager.handle(task).result(0) == "done"


def test_a_worker_whose_threads_are_stuck_starts_anew(
    shell, start: Start, manager: BackgroundTaskManager, tmp_path: Path
) -> None:
    """In the same process; what hangs is tried twice so, then in child processes, where its time limit is kept."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "never") as never:
        limits = {"timeout": 0.2, "max_retries": 0}
        hanging = [submit(manager, "hold", said.path, never.path, **limits) for _ in range(2)]
        in_hand = submit(manager, "note", shell.workspace / "log", 1, pool="process")
        worker = start("worker", "--threads", "1", "--processes", "1")
        for _ in range(2):
            worker.wait_for(
                "its threads are stuck in tasks that do not end: finishing the rest, at most 30 s, then anew"
            )
            worker.wait_for(f"process {worker.process.pid}; tasks at once")
        ends = [manager.handle(task_id).wait(TIMEOUT_S) for task_id in hanging]
        assert manager.handle(submit(manager, "note", shell.workspace / "log", 2)).result(TIMEOUT_S) is None
        worker.process.terminate()
        assert worker.end() == 0
    assert worker.said.count("threads are stuck") == 2
    assert manager.get_task_status(in_hand) is TaskStatus.COMPLETED
    for task in ends:
        outcomes = [attempt.outcome.value for attempt in task.attempts]
        assert (task.status, outcomes) == (TaskStatus.FAILED, ["interrupted", "interrupted", "timed_out"])
    assert manager.workers() == []


def test_a_signal_while_threads_are_stuck_ends_it(
    shell, start: Start, manager: BackgroundTaskManager, tmp_path: Path
) -> None:
    """It does not start anew when it was told to stop."""
    with ExitStack() as stack:
        said, released, never = (stack.enter_context(Signal(tmp_path / name)) for name in ("said", "free", "never"))
        in_hand = submit(manager, "hold", said.path, released.path, pool="process")
        worker = start("worker", "--threads", "1", "--processes", "1")
        said.wait()
        for _ in range(2):
            submit(manager, "hold", said.path, never.path, timeout=0.2)
        worker.wait_for("threads are stuck")
        worker.process.terminate()
        released.release()
        assert worker.end() == 0
    assert manager.handle(in_hand).result(0) == "done"
    assert worker.said.count("database ") == 1


def test_ctrl_c_at_a_terminal(shell, start: Start, manager: BackgroundTaskManager, tmp_path: Path) -> None:
    """It reaches the worker alone: what its child process has in hand is finished."""
    spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    environment = {**os.environ, "THIRDSHIFT_WORKSPACE": str(shell.workspace)}
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        task = submit(manager, "hold", said.path, released.path, pool="process")
        with subprocess.Popen(
            [sys.executable, "-c", spawn, COMMAND, "worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=shell.folder,
            env=environment,
        ) as process:
            said.wait()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"\x03")
            process.stdin.flush()
            seen = b""
            while b"stopping after SIGINT" not in seen:
                piece = os.read(process.stdout.fileno(), 1000)
                assert piece, seen
                seen += piece
            released.release()
            process.stdin.close()
            process.stdout.read()
            assert process.wait(TIMEOUT_S) == 0
    assert manager.handle(task).result(0) == "done"


def test_all_stacks_are_shown_on_request(shell, start: Start, manager: BackgroundTaskManager, tmp_path: Path) -> None:
    """SIGUSR2 names the line where the task is, and stops nothing."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        task = submit(manager, "hold", said.path, released.path)
        worker = start("worker")
        said.wait()
        worker.process.send_signal(signal.SIGUSR2)
        assert "chores.py" in worker.wait_for(" in hold")
        released.release()
        assert manager.handle(task).result(TIMEOUT_S) == "done"
        worker.process.terminate()
        assert worker.end() == 0


def test_draining_ends_with_the_last_task(shell, start: Start, manager: BackgroundTaskManager) -> None:
    """Also the last of those that are due later; the document says what happened."""
    ids = [submit(manager, "note", shell.workspace / "log", number) for number in range(20)]
    worker = start("--json", "worker", "--drain", "--quiet", ready="")
    printed, said = worker.process.communicate(timeout=TIMEOUT_S)
    assert worker.process.returncode == 0
    assert said == f"database   {shell.database}\n"
    document = json.loads(printed)
    assert (document["stopped_by"], document["ends"]) == ("drained", {"completed": 20})
    assert {manager.get_task_status(task_id) for task_id in ids} == {TaskStatus.COMPLETED}


def test_a_signal_ends_a_drain(shell, start: Start, manager: BackgroundTaskManager, tmp_path: Path) -> None:
    """It is a stop like any other."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        submit(manager, "hold", said.path, released.path)
        left = submit(manager, "hold", said.path, released.path)
        worker = start("worker", "--drain", "--threads", "1")
        said.wait()
        worker.process.terminate()
        worker.wait_for("stopping after SIGTERM")
        released.release()
        assert worker.end() == 0
    assert manager.get_task_status(left) is TaskStatus.PENDING


def test_several_workers_share_one_file(shell, start: Start, manager: BackgroundTaskManager) -> None:
    """Each task runs once, and none of the workers stands idle."""
    log = shell.workspace / "log"
    workers = [start("worker", "--threads", "2", "--processes", "1", ready="stop ") for _ in range(3)]
    pools = ("thread", "process")
    ids = [submit(manager, "note", log, number, pool=pools[number % 2]) for number in range(90)]
    for task_id in ids:
        manager.handle(task_id).wait(TIMEOUT_S)
    for worker in workers:
        worker.process.terminate()
    assert [worker.end() for worker in workers] == [0, 0, 0]
    assert "locked" not in "".join(worker.said for worker in workers)
    runs = [line.split() for line in log.read_text().splitlines()]
    assert Counter(number for number, _ in runs) == Counter(map(str, range(90)))
    with sqlite3.connect(shell.database) as connection:
        ((took_part,),) = connection.execute("SELECT count(DISTINCT worker) FROM attempt")
    connection.close()
    assert took_part > 1


def test_its_folder_comes_first_and_is_handed_to_children(
    shell, start: Start, manager: BackgroundTaskManager, tmp_path: Path
) -> None:
    """The worker is started from elsewhere."""
    (shell.folder / "beside.py").write_text("WHERE = __file__\n")
    threaded = submit(manager, "folder")
    process = submit(manager, "folder", pool="process")
    worker = start("worker", "--drain", "--app-dir", str(shell.folder), cwd=tmp_path)
    assert worker.end() == 0
    assert {manager.handle(each).result(0) for each in (threaded, process)} == {str(shell.folder / "beside.py")}


def test_what_cannot_be_imported_is_said_once(
    shell, start: Start, manager: BackgroundTaskManager, tmp_path: Path
) -> None:
    """With the reason, and what helps: for tasks that wait, and for those that come later."""
    for number in range(3):
        submit(manager, "note", shell.workspace / "log", number, max_retries=0)
    worker = start("worker", "--threads", "1", cwd=tmp_path)
    assert "No module named 'chores'" in worker.wait_for("warning: chores:note cannot be imported here")
    shell.submit("functions:add", "1", "--max-retries", "0")
    assert "--app-dir" in worker.wait_for("warning: functions:add cannot be imported here")
    shell.submit("functions:read", "1", "--max-retries", "0", "--pool", "process")
    assert "--app-dir" in worker.wait_for("warning: functions:read cannot be imported here")
    worker.process.terminate()
    assert worker.end() == 0
    assert worker.said.count("chores:note cannot") == 1


@pytest.mark.parametrize("pool", ["thread", "process"])
def test_what_cannot_be_imported_is_left_to_a_worker_that_can(
    shell, start: Start, manager: BackgroundTaskManager, tmp_path: Path, pool: str
) -> None:
    """Without an attempt, and without waiting for it."""
    task_id = submit(manager, "note", shell.workspace / "log", 1, pool=pool, max_retries=0)
    elsewhere = start("--json", "worker", "--drain", cwd=tmp_path)
    printed, _ = elsewhere.process.communicate(timeout=TIMEOUT_S)
    assert (elsewhere.process.returncode, json.loads(printed)["not_importable"]) == (0, ["chores:note"])
    assert manager.handle(task_id).task.attempts == ()
    assert start("worker", "--drain").end() == 0
    found = manager.handle(task_id).task
    assert (found.status, len(found.attempts)) == (TaskStatus.COMPLETED, 1)


@pytest.mark.parametrize("pool", ["thread", "process"])
def test_a_functions_own_error_is_no_matter_of_importing(
    shell, start: Start, manager: BackgroundTaskManager, pool: str
) -> None:
    """Although it is of the same kind."""
    tasks = [submit(manager, name, pool=pool, max_retries=0) for name in ("misspell", "folder")]
    worker = start("worker", "--drain")
    assert worker.end() == 0
    errors = [str(manager.handle(task_id).task.error) for task_id in tasks]
    assert errors[0].startswith("AttributeError")
    assert errors[1].startswith("ModuleNotFoundError")
    assert "cannot be imported" not in worker.said


def test_it_works_on_its_queues_only(shell, start: Start, manager: BackgroundTaskManager) -> None:
    """Those that are named, or all but those that are; the training daemon's are never taken by the way."""
    log = shell.workspace / "log"
    queues = ("mail", "reports", "images", TRAINING_QUEUE)
    tasks = {queue: submit(manager, "note", log, queue, queue=queue) for queue in queues}

    def finished() -> set[str]:
        return {queue for queue, each in tasks.items() if manager.get_task_status(each) is TaskStatus.COMPLETED}

    assert start("worker", "--drain", "--queues", "mail, none-yet").end() == 0
    assert finished() == {"mail"}
    assert start("worker", "--drain", "--exclude-queues", "images").end() == 0
    assert finished() == {"mail", "reports"}
    assert start("worker", "--drain").end() == 0
    assert finished() == {"mail", "reports", "images"}
    assert start("worker", "--drain", "--queues", TRAINING_QUEUE).end() == 0
    assert finished() == set(queues)


def test_the_daemons_queues_are_known_by_name() -> None:
    """The worker does not import the application to learn them."""
    assert command._OF_THE_DAEMON == QUEUES


def test_it_says_now_and_then_that_it_lives(shell, manager: BackgroundTaskManager) -> None:
    """What it has in hand, what waits and what it did; not when it is to be quiet."""
    submit(manager, "note", shell.workspace / "log", 1)
    program = (
        "import sys, thirdshift.cli.worker as worker; from thirdshift.cli.main import run; worker._LIFE_S = 0.3; "
        "sys.exit(run(sys.argv[1:]))"
    )
    environment = {**os.environ, "THIRDSHIFT_WORKSPACE": str(shell.workspace)}
    wanted = "w: 0 tasks in hand, 0 wait; in the last minute: 1 completed\n"
    for options in ([], ["--quiet"]):
        with subprocess.Popen(
            [sys.executable, "-c", program, "worker", "--name", "w", *options],
            stderr=subprocess.PIPE,
            text=True,
            cwd=shell.folder,
            env=environment,
        ) as process:
            assert process.stderr is not None
            if options:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(1.5)
            else:
                assert wanted in process.stderr  # reads up to it
            process.terminate()
            _, said = process.communicate(timeout=TIMEOUT_S)
        assert options == [] or "w: " not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threads", "0", "--processes", "0", "--coroutines", "0"], "all pools have 0 slots"),
        (["--queues", ","], "--queues names no queue"),
        (["--threads", "-1"], "-1"),
    ],
)
def test_a_wrong_call_is_refused(shell, arguments: list[str], words: str) -> None:
    """With the usual exit code."""
    done = shell("worker", *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert words in done.stderr


def test_a_store_or_a_configuration_that_cannot_be_used(shell) -> None:
    """69 and 78, and one message."""
    (shell.workspace / "notes.db").write_text("not a database, but long enough to be mistaken for one " * 40)
    done = shell("worker", "--database", str(shell.workspace / "notes.db"))
    assert done.returncode == 69, done.stderr
    assert "Traceback" not in done.stderr
    (shell.workspace / "thirdshift.yaml").write_text("threads: 4\n")
    done = shell("worker")
    assert done.returncode == 78
    assert "unknown key threads" in done.stderr


def test_a_store_that_is_damaged_under_it_ends_it(shell, start: Start) -> None:
    """The worker gives up and the exit code says that the store is to blame."""
    worker = start("worker", ready="stop ")
    with sqlite3.connect(shell.database, isolation_level=None) as connection:
        ((version,),) = connection.execute("PRAGMA schema_version")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET rootpage = 999999 WHERE name = 'task'")
        connection.execute(f"PRAGMA schema_version = {version + 1}")
    connection.close()
    worker.wait_for("the worker gave up")
    assert worker.process.wait(TIMEOUT_S) == 69
