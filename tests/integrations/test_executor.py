"""`thirdshift.Executor` does what the standard says of executors, and keeps what it was given."""

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, ThreadPoolExecutor, as_completed, wait
from concurrent.futures import Executor as StandardExecutor
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, Executor, NotImportable, StoreDamaged, TaskFailed, TaskStatus, UsageError
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing import functions
from thirdshift.testing.signals import TIMEOUT_S, Signal


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Executor]:
    with Executor(2, database=tmp_path / "tasks.db") as made:
        yield made


@pytest.fixture(params=["ours", "the standard's"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StandardExecutor]:
    """Ours and the standard's, for what both must do."""
    made = Executor(2, database=tmp_path / "tasks.db") if request.param == "ours" else ThreadPoolExecutor(2)
    with made:
        yield made


def test_results_and_callbacks(either: StandardExecutor) -> None:
    """As they are done; a callback that comes late is called at once."""
    called: list[int] = []
    future = either.submit(functions.add, 1, 2)
    future.add_done_callback(lambda done: called.append(done.result()))
    assert future.result(TIMEOUT_S) == 3
    future.add_done_callback(lambda done: called.append(done.result() + 1))
    wait([future], TIMEOUT_S)
    many = [either.submit(functions.add, number, 0) for number in range(50)]
    assert sorted(each.result() for each in as_completed(many, TIMEOUT_S)) == list(range(50))
    assert sorted(called) == [3, 4]
    assert future.done()
    assert not future.running()
    assert not future.cancel()


def test_map(either: StandardExecutor) -> None:
    """In order, as long as the shortest, whatever the size of chunks."""
    assert list(either.map(functions.add, range(100), range(50))) == [2 * number for number in range(50)]
    assert list(either.map(functions.add, range(25), range(25), chunksize=7)) == [2 * number for number in range(25)]
    assert list(either.map(functions.add, [], [])) == []


def test_map_takes_no_longer_than_it_may(either: StandardExecutor, tmp_path: Path) -> None:
    """The time counts from the call; what has not begun is cancelled."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        results = either.map(functions.hold, [said.path], [released.path], timeout=0.05)
        said.wait()
        with pytest.raises(TimeoutError):
            next(results)
        released.release()


def test_a_map_that_ends_early_leaves_alone_what_runs(tmp_path: Path) -> None:
    """Also child processes, which could be ended; only what has not begun is cancelled."""
    with Signal(tmp_path / "said") as said, contextlib.ExitStack() as stack:
        released = [stack.enter_context(Signal(tmp_path / f"released-{number}")) for number in range(4)]
        with Executor(2, worker_type="process", database=tmp_path / "tasks.db") as executor:
            results = executor.map(functions.hold, [said.path] * 4, [each.path for each in released])
            released[0].release()
            assert next(results) == "released"
            for _ in range(3):
                said.wait()  # the second and the third run, the fourth waits
            results.close()  # type: ignore[attr-defined]  # a generator
            assert executor.manager.get_stats()["running"] == 2
            for each in released:
                each.release()
        with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as reader:
            found = [task.status for task in reversed(reader.find_tasks())]
        assert found == [TaskStatus.COMPLETED] * 3 + [TaskStatus.CANCELLED]


def test_after_the_shutdown(either: StandardExecutor) -> None:
    """What was taken is finished, and nothing more is taken."""
    futures = [either.submit(functions.add, number, 0) for number in range(20)]
    either.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        either.submit(functions.add, 1, 2)
    with pytest.raises(RuntimeError, match="after shutdown"):
        either.map(functions.add, [1], [2])
    either.shutdown()
    assert [future.result(0) for future in futures] == list(range(20))


def test_pending_futures_are_cancelled_at_the_shutdown(tmp_path: Path) -> None:
    """Those that run are finished."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        executor = Executor(1, database=tmp_path / "tasks.db")
        held = executor.submit(functions.hold, said.path, released.path)
        said.wait()
        assert held.running()
        waiting = [executor.submit(functions.add, 1, 2) for _ in range(5)]
        executor.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in waiting)
        released.release()
        assert held.result(TIMEOUT_S) == "released"
        executor.shutdown()
    assert wait(waiting, 0).not_done == set()


def test_nothing_that_began_is_cancelled_at_the_shutdown(tmp_path: Path) -> None:
    """Not even what begins just then: a call is either cancelled before its first attempt, or finished."""
    executor = Executor(4, database=tmp_path / "tasks.db")
    futures = [executor.submit(functions.add, number, 0) for number in range(100)]
    futures[10].result(TIMEOUT_S)
    executor.shutdown(cancel_futures=True)
    assert wait(futures, 0).not_done == set()
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as reader:
        for future in futures:
            task = reader.get_task(future.task_id)
            assert task is not None
            assert task.status is (TaskStatus.CANCELLED if future.cancelled() else TaskStatus.COMPLETED)
            assert not (future.cancelled() and task.attempts)


def test_a_worker_that_gives_up_breaks_the_executor(tmp_path: Path) -> None:
    """Who waits is told, nothing more is taken, and the shutdown does not wait for what will never come."""
    damage = StoreDamaged("x.db", "malformed")
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        executor = Executor(1, database=tmp_path / "tasks.db")
        done = executor.submit(functions.add, 1, 2)
        assert done.result(TIMEOUT_S) == 3
        futures = [executor.submit(functions.hold, said.path, released.path), executor.submit(functions.add, 3, 4)]
        said.wait()
        SQLiteEngine._open[tmp_path / "tasks.db"]._writer._stopped_by = damage  # as after a bad fsync
        released.release()
        for future in futures:
            with pytest.raises(BrokenExecutor, match=r"gave up \(.*malformed.*They stay in .*tasks\.db") as caught:
                future.result(TIMEOUT_S)
            assert caught.value.__cause__ is damage
        with pytest.raises(BrokenExecutor, match="gave up"):
            executor.submit(functions.add, 1, 2)
        executor.shutdown()
        assert done.result(0) == 3


def test_somebody_else_shuts_the_manager_down(tmp_path: Path) -> None:
    """The calls stay on disk, and nobody waits for them for ever."""
    with Executor(1, name="nightly", database=tmp_path / "tasks.db") as executor:
        executor.manager.pause_queue("executor-nightly")
        future = executor.submit(functions.add, 1, 2)
        executor.manager.shutdown()
        with pytest.raises(BrokenExecutor, match="its manager was shut down"):
            future.result(TIMEOUT_S)
    with Executor.attach("nightly", database=tmp_path / "tasks.db") as again:
        again.manager.resume_queue("executor-nightly")
        assert again.futures[future.task_id].result(TIMEOUT_S) == 3


def test_a_forked_child_is_told_that_the_executor_is_its_parents(tmp_path: Path) -> None:
    """Its futures fail there instead of waiting for ever, and call nobody back; the parent's are as before."""
    program = f"""
import os, sys
from concurrent.futures import wait
from thirdshift import Executor, UsageError
from thirdshift.testing import functions
if __name__ == "__main__":
    with Executor(1, database={str(tmp_path / "tasks.db")!r}) as executor:
        executor.submit(functions.add, 0, 0).result()
        executor.manager.pause_queue("executor-unnamed")
        called = []
        future = executor.submit(functions.add, 1, 2)
        future.add_done_callback(called.append)
        parent, child = os.getpid(), os.fork()
        if child == 0:
            refused = wait([future]).done == {{future}} and called == [] and str(parent) in str(future.exception())
            for call in (future.result, lambda: executor.submit(functions.add, 1, 2)):
                try:
                    call()
                    refused = False
                except UsageError as error:
                    refused = refused and "fork" in str(error)
            executor.shutdown()
            with Executor(1) as own:
                os._exit(0 if refused and own.submit(functions.add, 3, 4).result() == 7 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not future.done()
        executor.manager.resume_queue("executor-unnamed")
        assert future.result() == 3 and called == [future]
"""
    (tmp_path / "program.py").write_text(program)
    unwarned = "ignore::DeprecationWarning"  # from Python 3.12 on a fork beside threads is warned of
    command = [sys.executable, "-W", "error", "-W", unwarned, str(tmp_path / "program.py")]
    subprocess.run(command, check=True, timeout=TIMEOUT_S)


def test_a_future_is_cancelled(executor: Executor, tmp_path: Path) -> None:
    """Before it runs, and while it runs: then it ends as soon as the function looks."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        held = [executor.submit(functions.hold, said.path, released.path) for _ in range(2)]
        said.wait()
        said.wait()
        waiting = executor.submit(functions.add, 1, 2)
        assert not waiting.running()
        assert waiting.cancel()
        assert waiting.cancel()
        with pytest.raises(CancelledError):
            waiting.result(TIMEOUT_S)
        assert held[0].cancel()
        assert not wait(held[:1], 0).done  # it is still in the function
        released.release()
        released.release()
        assert wait(held, TIMEOUT_S).not_done == set()
        assert held[0].cancelled()
        assert held[1].result() == "released"


def test_a_process_that_is_cancelled_is_ended(tmp_path: Path) -> None:
    """However long it would sleep."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "never") as never:
        with Executor(1, worker_type="process", database=tmp_path / "tasks.db") as executor:
            future = executor.submit(functions.hold, said.path, never.path)
            said.wait()
            assert future.cancel()
        assert wait([future], 0).not_done == set()


def test_somebody_else_cancels_the_task(executor: Executor, tmp_path: Path) -> None:
    """The future says so."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        held = [executor.submit(functions.hold, said.path, released.path) for _ in range(2)]
        said.wait()
        said.wait()
        future = executor.submit(functions.add, 1, 2)
        executor.manager.cancel_task(future.task_id)
        with pytest.raises(CancelledError):
            future.result(TIMEOUT_S)
        released.release()
        released.release()
        wait(held, TIMEOUT_S)


def test_failures(executor: Executor) -> None:
    """A function that raises runs once; what cannot be stored is refused at once."""
    future = executor.submit(math.factorial, -1)
    error = future.exception(TIMEOUT_S)
    assert isinstance(error, TaskFailed)
    assert error.type == "ValueError"
    task = executor.manager.get_task(future.task_id)
    assert task is not None
    assert len(task.attempts) == 1
    with pytest.raises(NotImportable):
        executor.submit(lambda: 1)
    with pytest.raises(UsageError):
        executor.submit(functions.add, object(), 1)
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(functions.add, [1], [2], chunksize=0)
    assert list(executor.map(functions.add, [1], [2])) == [3]


def test_coroutines_and_event_loops(executor: Executor) -> None:
    """`run_in_executor` takes it like any other; a future can be awaited."""

    async def work() -> list[int]:
        loop = asyncio.get_running_loop()
        first = loop.run_in_executor(executor, functions.add, 1, 2)  # type: ignore[arg-type]
        second = asyncio.wrap_future(executor.submit(functions.add, 3, 4))
        return [await first, await second]

    assert asyncio.run(work()) == [3, 7]


def test_many_futures_cost_one_thread(executor: Executor) -> None:
    """Not one each."""
    executor.submit(functions.add, 1, 2).result(TIMEOUT_S)
    executor.manager.pause_queue("executor-unnamed")
    before = threading.active_count()
    futures = [executor.submit(functions.add, number, 0) for number in range(200)]
    assert threading.active_count() <= before + 1  # the one that watches for all who wait
    executor.manager.resume_queue("executor-unnamed")
    assert [future.result(TIMEOUT_S) for future in futures] == list(range(200))


def test_without_a_database_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file lies in the temporary folder until the shutdown."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with Executor() as executor:
        assert executor.submit(functions.add, 1, 2).result(TIMEOUT_S) == 3
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_names(tmp_path: Path) -> None:
    """A name needs a file and plain letters; two names do not see each other's calls."""
    with pytest.raises(UsageError, match="database"):
        Executor(name="nightly")
    with pytest.raises(UsageError, match="letters"):
        Executor(name="no/folder", database=tmp_path / "tasks.db")
    with (
        Executor(name="one", database=tmp_path / "tasks.db") as one,
        Executor(name="two", database=tmp_path / "tasks.db") as two,
    ):
        ids = [one.submit(functions.add, 1, 2).task_id, two.submit(functions.add, 3, 4).task_id]
    for name, task_id, result in zip(("one", "two"), ids, (3, 7), strict=True):
        with Executor.attach(name, database=tmp_path / "tasks.db") as again:
            assert {key: future.result(TIMEOUT_S) for key, future in again.futures.items()} == {task_id: result}


def test_a_program_that_just_ends_finishes_what_it_took(tmp_path: Path) -> None:
    """As with the standard's executors, without any shutdown."""
    program = f"""
from thirdshift import Executor
from thirdshift.testing import functions
if __name__ == "__main__":
    executor = Executor(2, name="x", database={str(tmp_path / "tasks.db")!r})
    for number in range(50):
        executor.submit(functions.add, number, 1)
"""
    (tmp_path / "program.py").write_text(program)
    subprocess.run([sys.executable, "-W", "error", str(tmp_path / "program.py")], check=True, timeout=TIMEOUT_S)
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as reader:
        assert reader.get_stats()["completed"] == 50
    with Executor.attach("x", database=tmp_path / "tasks.db") as again:
        assert [future.result(TIMEOUT_S) for future in again.futures.values()] == list(range(1, 51))


def test_futures_survive_the_death_of_their_process(tmp_path: Path) -> None:
    """What was finished has its result, what ran runs again, what waited runs; in the order of their submits."""
    with Signal(tmp_path / "said") as said, Signal(tmp_path / "released") as released:
        program = f"""
import sys
from thirdshift import Executor
from thirdshift.testing import functions
from thirdshift.testing.signals import send
if __name__ == "__main__":
    with Executor(1, name="nightly", database={str(tmp_path / "tasks.db")!r}) as executor:
        executor.submit(functions.add, 1, 2).result()
        executor.submit(functions.hold, *sys.argv[1:])
        executor.submit(functions.add, 3, 4)
        send(sys.argv[1])
"""
        (tmp_path / "program.py").write_text(program)
        command = [sys.executable, str(tmp_path / "program.py"), said.path, released.path]
        with subprocess.Popen(command) as first:
            said.wait()
            said.wait()  # both: the second call runs, and the third is stored
            os.kill(first.pid, signal.SIGKILL)
        with Executor.attach("nightly", database=tmp_path / "tasks.db", max_workers=1) as again:
            said.wait()
            released.release()  # before anything can fail here: the end of the block waits for the function
            done, held, waiting = again.futures.values()
            assert done.result(TIMEOUT_S) == 3
            assert held.result(TIMEOUT_S) == "released"
            assert waiting.result(TIMEOUT_S) == 7
