"""Inside web servers, and in scripts that just end: nothing is lost, nothing hangs, nobody finds the file locked."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, TaskStatus
from thirdshift.testing.signals import TIMEOUT_S

pytestmark = pytest.mark.alone

HERE = Path(__file__).parent
COMMAND = str(Path(sys.executable).with_name("thirdshift"))
REQUESTS = 80
STOP_S = 20.0
"""Longest stop of a server: well under its own limits, which would end it by force."""


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Shop:
    """A server that runs ``shop.py``, and what it leaves."""

    folder: Path
    process: subprocess.Popen[str]

    @property
    def database(self) -> Path:
        return self.folder / "shop.db"

    def get(self, number: int) -> tuple[int, str]:
        """Return the process that answered and the task's id."""
        connection = _Connection(self.folder / "socket")
        try:
            connection.request("GET", f"/{number}")
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, body
        finally:
            connection.close()
        pid, task_id = body.split()
        return int(pid), task_id

    def sell(self, requests: int) -> tuple[set[int], list[str]]:
        """Make *requests* from several threads; returns who answered, and the ids."""
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(self.get, range(requests)))
        return {pid for pid, _ in answers}, [task_id for _, task_id in answers]

    def stop(self) -> str:
        """Stop the server as its supervisor would; returns what it said."""
        begun = time.monotonic()
        self.process.terminate()
        said, _ = self.process.communicate(timeout=STOP_S)
        assert self.process.returncode in (0, -signal.SIGTERM), said
        assert time.monotonic() - begun < STOP_S
        assert "locked" not in said
        assert "wakes.lost" not in said
        assert "Traceback" not in said, said
        return said


def environment(folder: Path, opened: str) -> dict[str, str]:
    found = {"SHOP_DATABASE": str(folder / "shop.db"), "SHOP_LOG": str(folder / "log"), "SHOP_OPENED": opened}
    return {**os.environ, **found, "PYTHONPATH": str(HERE)}


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        return caller.connect_ex(str(path)) == 0


@contextmanager
def serving(folder: Path, command: Sequence[str], opened: str = "late") -> Iterator[Shop]:
    """Run a server until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(folder, opened),
        cwd=folder,
    )
    with process:
        try:
            shop = Shop(folder, process)
            deadline = time.monotonic() + TIMEOUT_S
            while not answers(folder / "socket") and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            yield shop
        finally:
            process.kill()


def gunicorn(folder: Path, *options: str) -> list[str]:
    where = f"unix:{folder / 'socket'}"
    limits = ["--graceful-timeout", "60", "--timeout", "60"]
    return ["gunicorn", "shop:wsgi", "--workers", "4", "--bind", where, "--no-control-socket", *limits, *options]


def uvicorn(folder: Path, *options: str) -> list[str]:
    return ["uvicorn", "shop:asgi", "--uds", str(folder / "socket"), "--lifespan", "on", *options]


def finish(folder: Path, ids: Sequence[str]) -> int:
    """Let a worker do what was left; demand that each task ran once. Returns how many were left."""
    with BackgroundTaskManager(database=folder / "shop.db", start=False) as manager:
        statuses = Counter(manager.get_task_status(task_id) for task_id in ids)
        assert set(statuses) <= {TaskStatus.COMPLETED, TaskStatus.PENDING}, statuses
        assert manager.workers() == []
        worker = [COMMAND, "worker", "--drain", "--database", str(folder / "shop.db")]
        subprocess.run(worker, check=True, timeout=TIMEOUT_S, env=environment(folder, "late"))
        assert {manager.get_task_status(task_id) for task_id in ids} == {TaskStatus.COMPLETED}
        assert manager.get_stats()["total"] == len(ids)
    judge((folder / "log").read_text().split(), len(ids))
    return statuses[TaskStatus.PENDING]


def judge(runs: Sequence[str], tasks: int) -> None:
    """Each task ran once, as the tasks themselves say."""
    counts = Counter(runs)
    assert len(counts) == tasks, "a task is lost"
    assert set(counts.values()) == {1}, "a task ran twice"


@pytest.mark.parametrize(("runs", "words"), [(["1", "2"], "lost"), (["1", "2", "3", "2"], "twice")])
def test_the_judge_sees(runs: list[str], words: str) -> None:
    """Negative control: a task that never ran, and one that ran twice."""
    with pytest.raises(AssertionError, match=words):
        judge(runs, 3)


def test_gunicorn_with_four_workers(tmp_path: Path) -> None:
    """Each opens the file after it was forked, submits and works."""
    with serving(tmp_path, gunicorn(tmp_path)) as shop:
        answered, ids = shop.sell(REQUESTS)
        assert len(answered) > 1
        shop.stop()
    finish(tmp_path, ids)


@pytest.mark.parametrize("opened", ["before the fork to submit", "before the fork to work"])
def test_gunicorn_with_preload(opened: str, tmp_path: Path) -> None:
    """The manager is made before the fork: the four submit with it; tasks run where it was made, if anywhere."""
    with serving(tmp_path, gunicorn(tmp_path, "--preload"), opened) as shop:
        answered, ids = shop.sell(REQUESTS)
        assert len(answered) > 1
        assert shop.process.pid not in answered
        shop.stop()
    left = finish(tmp_path, ids)
    assert (left == REQUESTS) is opened.endswith("to submit")


def test_gunicorn_replaces_a_worker_that_was_killed(tmp_path: Path) -> None:
    """What it had in hand runs again in the others; what it had acknowledged is not lost."""
    with serving(tmp_path, gunicorn(tmp_path)) as shop:
        answered, ids = shop.sell(REQUESTS // 2)
        os.kill(answered.pop(), signal.SIGKILL)
        with ThreadPoolExecutor(1) as threads:  # one request at a time: none is in the hands of the one that dies
            ids += [task_id for _, task_id in threads.map(shop.get, range(REQUESTS // 2, REQUESTS))]
        with BackgroundTaskManager(database=shop.database, start=False) as looker:
            for task_id in ids:
                looker.handle(task_id).wait(TIMEOUT_S)
        shop.stop()
    runs = Counter((tmp_path / "log").read_text().split())
    assert len(runs) == REQUESTS
    assert sum(runs.values()) <= REQUESTS + 2, "more was run again than the dead one had slots"


@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["one process", "two processes"])
def test_uvicorn(options: list[str], tmp_path: Path) -> None:
    """The manager lives as long as the application's lifespan; a stop finishes the work in hand."""
    with serving(tmp_path, uvicorn(tmp_path, *options)) as shop:
        _, ids = shop.sell(REQUESTS)
        said = shop.stop()
    assert "Application shutdown complete" in said
    finish(tmp_path, ids)


SCRIPT = """
import os
import sys
import shop

if __name__ == "__main__":
    manager = shop.open_shop()
    for number in range(40):
        print(manager.submit_task(shop.sell, str(number)), flush=True)
    {end}
"""
ENDS = {
    "it just ends": ("pass", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise ValueError('the script failed')", 1),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_script_that_ends_without_shutdown(how: str, tmp_path: Path) -> None:
    """The work in hand is finished, the rest stays for the next one; the exit code is the script's own."""
    end, code = ENDS[how]
    (tmp_path / "script.py").write_text(SCRIPT.format(end=end))
    done = subprocess.run(
        [sys.executable, "-W", "error", tmp_path / "script.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=STOP_S,
        env=environment(tmp_path, "late"),
    )
    assert done.returncode == code, done.stderr
    assert "locked" not in done.stderr
    assert ("Traceback" in done.stderr) is (code == 1)
    assert finish(tmp_path, done.stdout.split()) > 0


def test_a_forked_child_of_a_working_process(tmp_path: Path) -> None:
    """It submits with its parent's manager, works with one of its own, and ends as multiprocessing wants it."""
    (tmp_path / "script.py").write_text("""
import multiprocessing
import shop

manager = None

def child(number):
    print(manager.submit_task(shop.sell, f"child {number}".replace(" ", "-")), flush=True)
    with shop.open_shop() as own:
        print(own.submit_task(shop.sell, f"own-{number}"), flush=True)

if __name__ == "__main__":
    manager = shop.open_shop()
    print(manager.submit_task(shop.sell, "parent"), flush=True)
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=child, args=[number]) for number in range(4)]
    for each in children:
        each.start()
    for each in children:
        each.join()
    assert [each.exitcode for each in children] == [0] * 4
""")
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=STOP_S,
        env=environment(tmp_path, "late"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    ids = done.stdout.split()
    assert len(ids) == 9
    finish(tmp_path, ids)
