"""Other libraries, beside us in one run, each at its documented durable settings where it has any.

Every peer is one class with the same four calls, so that all are measured alike. A peer that is not installed, or whose
server is missing, is left out with the reason.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from bare import noop

from thirdshift import BackgroundTaskManager

HERE = Path(__file__).parent
_HUEY = [sys.executable, "-c", "import huey_app, sys; huey_app.serve(sys.argv[1])"]


class Peer(Protocol):
    """One library: submit without a worker, drain with one, and the time until a result is back."""

    name: str

    def submit(self, count: int) -> float:
        """Submit *count* tasks one by one, no worker running; returns tasks a second."""

    def drain(self, count: int) -> float:
        """Run the *count* submitted tasks with one worker of four threads; returns tasks a second."""

    def result_ms(self, count: int) -> float:
        """Return the median milliseconds from submit to result at the submitter, an idle worker running."""


class Thirdshift:
    """Ourselves, ``full``: the submit is on disk."""

    def __init__(self, folder: Path, durability: str = "full") -> None:
        self.name = f"thirdshift {durability}"
        self._database = folder / f"peer-{durability}.db"
        self._durability = durability

    def submit(self, count: int) -> float:
        with BackgroundTaskManager(database=self._database, durability=self._durability, start=False) as manager:
            return _rate(count, lambda number: manager.submit(noop, number))

    def drain(self, count: int) -> float:
        started = time.perf_counter()
        with BackgroundTaskManager(database=self._database) as manager:
            manager.shutdown(drain=True)
        return count / (time.perf_counter() - started)

    def result_ms(self, count: int) -> float:
        with BackgroundTaskManager(database=self._database, durability=self._durability) as manager:
            return _median_ms(count, lambda number: manager.submit(noop, number).result(10))


class Threads:
    """``ThreadPoolExecutor``: no disk at all, the limit of four threads in one process."""

    name = "ThreadPoolExecutor (memory only)"

    def submit(self, count: int) -> float:
        with ThreadPoolExecutor(4) as pool:
            return _rate(count, lambda number: pool.submit(noop, number))

    def drain(self, count: int) -> float:
        started = time.perf_counter()
        with ThreadPoolExecutor(4) as pool:
            for number in range(count):
                pool.submit(noop, number)
        return count / (time.perf_counter() - started)

    def result_ms(self, count: int) -> float:
        with ThreadPoolExecutor(4) as pool:
            return _median_ms(count, lambda number: pool.submit(noop, number).result(10))


class Huey:
    """huey on SQLite with its default ``synchronous=FULL``; its dequeue deletes the row, so a crash loses the task."""

    name = "huey SQLite FULL"

    def __init__(self, folder: Path) -> None:
        import huey_app  # noqa: PLC0415  # an optional peer

        self._database = str(folder / "huey.db")
        self._task, self._huey = huey_app.make(self._database)

    def submit(self, count: int) -> float:
        return _rate(count, self._task)

    def drain(self, count: int) -> float:
        with _process([*_HUEY, self._database]):
            return _drained(count, self._huey.pending_count)

    def result_ms(self, count: int) -> float:
        with _process([*_HUEY, self._database]):
            self._task(0).get(blocking=True, timeout=20)
            return _median_ms(count, lambda number: self._task(number).get(blocking=True, timeout=10))


class Celery:
    """Celery on Redis, thread pool of four; Redis at its default, so an enqueue does not survive power loss."""

    name = "celery redis threads"

    def __init__(self, port: int) -> None:
        os.environ["BENCH_REDIS"] = f"redis://127.0.0.1:{port}/0"
        import celery_app  # noqa: PLC0415  # an optional peer

        self._task, self._pending = celery_app.run, celery_app.pending
        self._command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-P", "threads", "-c", "4"]

    def submit(self, count: int) -> float:
        return _rate(count, self._task.delay)

    def drain(self, count: int) -> float:
        with _process(self._command):
            return _drained(count, self._pending)

    def result_ms(self, count: int) -> float:
        with _process(self._command):
            self._task.delay(0).get(timeout=30)
            return _median_ms(count, lambda number: self._task.delay(number).get(timeout=10))


def measure(folder: Path, quick: bool) -> list[dict[str, object]]:
    """Return the figures of every peer that can run here."""
    count, rounds = (300, 20) if quick else (3000, 100)
    rows: list[dict[str, object]] = []
    with _redis(folder) as port:
        makers: list[tuple[str, Callable[[], Peer]]] = [
            ("thirdshift full", lambda: Thirdshift(folder)),
            ("thirdshift relaxed", lambda: Thirdshift(folder, "relaxed")),
            ("threads", Threads),
            ("huey", lambda: Huey(folder)),
            ("celery", lambda: Celery(_demand(port))),
        ]
        for name, make in makers:
            try:
                peer = make()
            except (ImportError, FileNotFoundError) as error:
                print(f"{name} left out: {error}", file=sys.stderr)
                continue
            rows.append({"case": f"{peer.name}: submit", "median": round(peer.submit(count)), "unit": "tasks/s"})
            rows.append({"case": f"{peer.name}: drain", "median": round(peer.drain(count)), "unit": "tasks/s"})
            rows.append({"case": f"{peer.name}: result", "median": round(peer.result_ms(rounds), 2), "unit": "ms"})
    return rows


def _rate(count: int, submit: Callable[[int], object]) -> float:
    started = time.perf_counter()
    for number in range(count):
        submit(number)
    return count / (time.perf_counter() - started)


def _median_ms(count: int, call: Callable[[int], object]) -> float:
    times = []
    for number in range(count):
        started = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - started)
        time.sleep(0.005)
    return statistics.median(times) * 1000


def _drained(count: int, pending: Callable[[], int]) -> float:
    """Wait until nothing is pending; the clock starts when the worker takes its first task."""
    while pending() >= count:
        time.sleep(0.001)
    started, first = time.perf_counter(), pending()
    while pending():
        time.sleep(0.005)
    return first / (time.perf_counter() - started)


@contextmanager
def _process(command: list[str]) -> Iterator[None]:
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    child = subprocess.Popen(command, cwd=HERE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.terminate()
        child.wait()


@contextmanager
def _redis(folder: Path) -> Iterator[int | None]:
    """Run a Redis server of our own on a free port of the loopback, or none where it is not installed."""
    if shutil.which("redis-server") is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with _process(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]):
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield port


def _demand(port: int | None) -> int:
    if port is None:
        raise FileNotFoundError("redis-server is not installed")
    return port
