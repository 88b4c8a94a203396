"""The manager over the embedded engine: its suite in every pool, and what a whole program sees."""

import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import thirdshift
from thirdshift import BackgroundTaskManager, QueueFull, TaskStatus, UsageError
from thirdshift.core import reference
from thirdshift.testing import coroutines, functions
from thirdshift.testing.manager_conformance import ManagerConformance, ProcessConformance
from thirdshift.testing.signals import TIMEOUT_S, Signal


class TestThreads(ManagerConformance):
    """The suite with functions in threads of this process."""

    worker_type = "threaded"

    def test_a_thread_that_does_not_end_is_left_alone(self) -> None:
        """It cannot be killed: shutdown says so soon, and nobody else runs its task meanwhile."""
        held = self.busy()
        assert not self.manager.shutdown(timeout=0.05)
        with self.open() as self.manager:
            assert self.manager.get_task_status(held.handle.id) is TaskStatus.RUNNING
            held.released.release()
            assert self.manager.handle(held.handle.id).result(TIMEOUT_S) == "released"
            assert len(self.manager.handle(held.handle.id).task.attempts) == 1


class TestProcesses(ProcessConformance):
    """The suite with functions in child processes."""


class TestCoroutines(ManagerConformance):
    """The suite with coroutines on one event loop."""

    worker_type = "async"
    functions = coroutines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"worker_type": "celery"}, "the Celery engine"),
        ({"broker_url": "redis://x"}, "the Celery engine"),
        ({"worker_type": "fast"}, "worker_type is 'fast'"),
        ({"durability": "none"}, "durability is 'none'"),
        ({"max_workers": 0}, "max_workers is 0; it must be 1 or more"),
        ({"queue_size": 0}, "queue_size is 0; it must be 1 or more"),
        ({"queue_wait_seconds": -1}, "queue_wait_seconds is -1; it is in seconds"),
        ({"unknown_after_hours": -1}, "unknown_after_hours is -1; it must be from 0 to"),
        ({"unknown_after_hours": float("inf")}, "unknown_after_hours is inf; it must be from 0 to"),
        ({"aliases": {"old:send": "no_such_module:send"}}, "aliases: old:send is to be no_such_module:send"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_a_file_is_made(
    tmp_path: Path, options: dict[str, object], words: str
) -> None:
    """By name, with what may stand there."""
    with pytest.raises(UsageError, match=words):
        BackgroundTaskManager(database=tmp_path / "tasks.db", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_full_queue_pushes_back(tmp_path: Path) -> None:
    """A clear error, never a silent drop."""
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False, queue_size=2) as manager:
        manager.submit_many(functions.add, [(1, 1), (2, 2)])
        with pytest.raises(QueueFull, match="queue_size is 2; nothing was submitted"):
            manager.submit(functions.add, 3, 3)
        assert manager.get_stats()["pending"] == 2


def test_the_shared_manager_is_made_once_and_again_after_its_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the workspace's configuration."""
    monkeypatch.setenv("THIRDSHIFT_WORKSPACE", str(tmp_path))
    monkeypatch.setattr(reference, "_aliases", {})
    (tmp_path / "thirdshift.yaml").write_text(
        "threaded_worker:\n  max_workers: 1\ndatabase: my.db\naliases:\n  shop.roots:root: math:sqrt\n"
    )
    manager = thirdshift.get_task_manager()
    assert reference.resolve("shop.roots:root") is math.sqrt
    task_id = thirdshift.submit_background_task(functions.add, 1, 2, name="sum")
    assert thirdshift.get_task_manager() is manager
    assert manager.handle(task_id).result(TIMEOUT_S) == 3
    assert manager.handle(task_id).task.name == "sum"
    assert manager.database == str(tmp_path / "my.db")
    manager.shutdown()
    again = thirdshift.get_task_manager()
    assert again is not manager
    again.shutdown()


# Whole programs


def run_script(folder: Path, body: str, *arguments: str) -> str:
    """Run *body* as a script of its own and return what it printed."""
    script = folder / "shop.py"
    script.write_text(textwrap.dedent(body))
    command = [sys.executable, "-W", "error", str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


SCRIPT = """
    import os, sys
    from thirdshift import BackgroundTaskManager
    with open("imports.txt", "a") as log:
        log.write(f"{__name__} {os.getpid()}\\n")

    def greet(name):
        return f"hello {name} from {os.getpid()}"

    if __name__ == "__main__":
        with open("runs.txt", "a") as log:
            log.write("run\\n")
        with BackgroundTaskManager(sys.argv[1], database="shop.db") as manager:
            handle = manager.submit(greet, "you")
            print(handle.result(120), os.getpid())
            print(handle.task.function)
"""


@pytest.mark.parametrize("worker_type", ["threaded", "process"])
def test_functions_of_a_script_run_and_the_script_runs_once(tmp_path: Path, worker_type: str) -> None:
    """A child imports the script as a module; its main part runs in the first process only."""
    lines = run_script(tmp_path, SCRIPT, worker_type).splitlines()
    _, _, _, child, parent = lines[0].split()
    assert (child == parent) == (worker_type == "threaded")
    assert lines[1] == "shop:greet"
    assert (tmp_path / "runs.txt").read_text() == "run\n"
    imports = (tmp_path / "imports.txt").read_text().split()[::2]
    assert imports == (["__main__"] if worker_type == "threaded" else ["__main__", "shop"])


def test_the_end_of_a_program_finishes_the_work_in_hand(tmp_path: Path) -> None:
    """Also when it forgot the manager: what runs ends, what waits stays on disk."""
    said, released, seen = (Signal(tmp_path / name) for name in ("said", "released", "seen"))
    script = tmp_path / "shop.py"
    script.write_text(
        textwrap.dedent("""
        import gc, sys
        from thirdshift import BackgroundTaskManager
        from thirdshift.testing import functions, signals
        def main():
            manager = BackgroundTaskManager(max_workers=1, database="shop.db")
            manager.submit_many(functions.hold, [sys.argv[1:3]] * 3)
        main()
        gc.collect()
        signals.receive(sys.argv[3])
        """)
    )
    with subprocess.Popen([sys.executable, script, said.path, released.path, seen.path], cwd=tmp_path) as program:
        said.wait()
        seen.release()
        released.release(3)
        assert program.wait(120) == 0
    with BackgroundTaskManager(database=tmp_path / "shop.db", start=False) as reader:
        stats = reader.get_stats()
        assert stats["completed"] >= 1
        assert stats["completed"] + stats["pending"] == 3
    for each in (said, released, seen):
        each.close()


def test_a_forked_child_shares_the_open_file(tmp_path: Path) -> None:
    """It submits, asks and waits with the manager that it inherited; the parent's worker does the work, of both."""
    printed = run_script(
        tmp_path,
        """
        import os, sys
        from thirdshift import BackgroundTaskManager
        from thirdshift.testing import functions

        with BackgroundTaskManager(database="shop.db") as manager:
            for number in range(20):
                manager.submit_many(functions.add, [(n, 1) for n in range(20)])
                child = os.fork()
                if child == 0:
                    handles = [manager.submit(functions.add, n, 2) for n in range(5)]
                    assert [handle.result(120) for handle in handles] == [2, 3, 4, 5, 6]
                    with BackgroundTaskManager(database="shop.db", start=False) as another:
                        another.submit(functions.add, 1, 1)
                    sys.exit(7)
                manager.submit_many(functions.add, [(n, 1) for n in range(20)])
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            print(manager.submit(functions.echo, 3).result(120))
            manager.shutdown(drain=True)
        with BackgroundTaskManager(database="shop.db", start=False) as manager:
            print(manager.get_stats()["completed"], manager.get_stats()["total"])
        """,
    )
    assert printed.splitlines() == ["3", "921 921"]


def test_a_forked_child_works_when_it_says_so(tmp_path: Path) -> None:
    """`start()`, once or twice; also for a manager that only submitted so far, and never after its shutdown."""
    printed = run_script(
        tmp_path,
        """
        import os
        from thirdshift import BackgroundTaskManager, UsageError
        from thirdshift.testing import functions

        manager = BackgroundTaskManager(database="shop.db", start=False)
        handle = manager.submit(functions.add, 1, 2)
        child = os.fork()
        if child == 0:
            manager.start()
            manager.start()
            assert handle.result(120) == 3
            assert len(manager.workers()) == 1
            manager.shutdown()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        manager.start()
        print(handle.result(120), manager.submit(functions.add, 2, 2).result(30), len(handle.task.attempts))
        manager.shutdown()
        try:
            manager.start()
        except UsageError as error:
            print(error)
        """,
    )
    assert printed == "3 4 1\nthis manager was shut down; make a new one\n"


def test_children_forked_while_threads_submit_share_the_file(tmp_path: Path) -> None:
    """At whatever instant of a commit, a read or a checkpoint the fork comes: nothing hangs, is lost, or doubled."""
    printed = run_script(
        tmp_path,
        """
        import os, threading
        from thirdshift import BackgroundTaskManager
        from thirdshift.testing import functions

        with BackgroundTaskManager(database="shop.db", durability="relaxed") as manager:
            is_over = threading.Event()
            ids = []

            def submit():
                while not is_over.is_set():
                    ids.append(manager.submit(functions.add, 1, 1).id)
                    manager.get_stats()

            threads = [threading.Thread(target=submit) for _ in range(3)]
            for thread in threads:
                thread.start()
            for _ in range(40):
                child = os.fork()
                if child == 0:
                    manager.submit_many(functions.add, [(n, 1) for n in range(10)])
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            is_over.set()
            for thread in threads:
                thread.join()
            assert len(set(ids)) == len(ids)
            manager.shutdown(drain=True)
        with BackgroundTaskManager(database="shop.db", start=False) as manager:
            print(manager.get_stats()["completed"] == len(ids) + 400, manager.get_stats()["total"] == len(ids) + 400)
        """,
    )
    assert printed == "True True\n"


def test_a_child_forked_before_the_file_was_opened_shares_it(tmp_path: Path) -> None:
    """As servers do that fork first and work afterwards."""
    printed = run_script(
        tmp_path,
        """
        import os, sys
        import thirdshift
        from thirdshift.testing import functions
        child = os.fork()
        with thirdshift.BackgroundTaskManager(database="shop.db") as manager:
            handles = [manager.submit(functions.add, n, 1) for n in range(50)]
            assert [handle.result(120) for handle in handles] == list(range(1, 51))
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            with thirdshift.BackgroundTaskManager(database="shop.db", start=False) as manager:
                print(manager.get_stats()["completed"])
        """,
    )
    assert printed == "100\n"


def test_ctrl_c_finishes_the_work_in_hand(tmp_path: Path) -> None:
    """KeyboardInterrupt in the main thread leaves the block like any other error."""
    said, released = Signal(tmp_path / "said"), Signal(tmp_path / "released")
    script = tmp_path / "shop.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from thirdshift import BackgroundTaskManager
        from thirdshift.testing import functions
        with BackgroundTaskManager("process", 1, database="shop.db") as manager:
            try:
                manager.submit(functions.hold, *sys.argv[1:3]).result()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
                raise
        """)
    )
    command = [sys.executable, str(script), said.path, released.path]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as program:
        said.wait()
        os.kill(program.pid, signal.SIGINT)
        assert program.stdout is not None
        assert program.stdout.readline() == "interrupted\n"
        released.release()
        assert program.wait(120) == -signal.SIGINT
    with BackgroundTaskManager(database=tmp_path / "shop.db", start=False) as reader:
        assert reader.get_stats()["completed"] == 1
    said.close()
    released.close()
