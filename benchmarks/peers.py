"""The sides of the comparison: ourselves and other libraries, each as one class with the same few calls.

Like stands beside like: ``full`` beside a peer's documented settings that survive power loss, ``relaxed`` beside those
that survive the death of the process only. A peer that is not installed, or whose server is missing, is left out, and
the reason goes into the report.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Protocol

from bare import BareLoop
from bench import HERE, OURS, Bench, Skipped, child_environment, python
from environments import interpreter
from functions import moment, noop

from thirdshift import BackgroundTaskManager

DURABILITIES = ("relaxed", "full")
THREADS = "ThreadPoolExecutor (not durable)"
HUEY = {"full": "huey SQLite fsync=True", "relaxed": "huey SQLite fsync=False"}
CELERY = {"full": "celery redis appendfsync always", "relaxed": "celery redis (not durable)"}
DRAMATIQ = {"full": "dramatiq redis appendfsync always", "relaxed": "dramatiq redis (not durable)"}
TASKIQ = {"full": "taskiq redis appendfsync always", "relaxed": "taskiq redis (not durable)"}
RQ = {"full": "rq redis, forks, appendfsync always", "relaxed": "rq redis, forks (not durable)"}
ARQ = {0.5: "arq redis (not durable)", 0.01: "arq polling at 10 ms (not durable)"}
"""By how often it looks for jobs and results, in seconds; the first is its default."""
_REDIS = {"full": ["--save", "", "--appendonly", "yes", "--appendfsync", "always"], "relaxed": []}
_RESULT_LIMIT_S = 30
_DRAIN_LIMIT_S = 120


class Producer(Protocol):
    """Who can submit a no-op task."""

    @property
    def who(self) -> str: ...

    def submit(self, number: int, /) -> object: ...

    def close(self) -> None: ...


class Side(Producer, Protocol):
    """A library: it can also run what was submitted, in a worker with four threads."""

    @property
    def drain_count(self) -> int:
        """As many tasks as the side runs in about two seconds."""

    def drain(self, count: int, /) -> float:
        """Submit *count* no-op tasks, then run them with a new worker; returns tasks a second of the run."""

    def call(self) -> float:
        """Run one task and wait for its result: when its body began, on the monotonic clock. Needs a worker."""

    def worker(self) -> AbstractContextManager[int | None]:
        """Run a worker in the block; gives its process id, ``None`` for this process."""


class Thirdshift:
    """Ourselves; the drain's clock runs from the worker's start."""

    who = OURS
    drain_count = 20_000

    def __init__(self, folder: Path, durability: str, *, start: bool = False) -> None:
        self._database = str(folder / f"thirdshift-{durability}-{start}.db")
        self._manager = BackgroundTaskManager(database=self._database, durability=durability, start=start)

    def submit(self, number: int) -> object:
        return self._manager.submit(noop, number)

    def submit_many(self, count: int) -> None:
        self._manager.submit_many(noop, [(number,) for number in range(count)])

    def drain(self, count: int) -> float:
        self.submit_many(count)
        return count / float(python("import sys, thirdshift_app as app; print(app.drain(sys.argv[1]))", self._database))

    def call(self) -> float:
        return self._manager.submit(moment).result(_RESULT_LIMIT_S)

    def worker(self) -> AbstractContextManager[int | None]:
        return process(_worker("thirdshift_app", self._database))

    def close(self) -> None:
        self._manager.shutdown()


class Threads:
    """``ThreadPoolExecutor``: no disk at all, the limit of four threads in one process."""

    who = THREADS
    drain_count = 50_000

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(4)

    def submit(self, number: int) -> object:
        return self._pool.submit(noop, number)

    def drain(self, count: int) -> float:
        started = time.perf_counter()
        with ThreadPoolExecutor(4) as pool:
            for number in range(count):
                pool.submit(noop, number)
        return count / (time.perf_counter() - started)

    def call(self) -> float:
        return self._pool.submit(moment).result(_RESULT_LIMIT_S)

    def worker(self) -> AbstractContextManager[int | None]:
        return nullcontext()

    def close(self) -> None:
        self._pool.shutdown()


class Huey:
    """huey on SQLite, in WAL mode; its dequeue deletes the row, so a crash loses the running task."""

    drain_count = 3_000

    def __init__(self, folder: Path, durability: str) -> None:
        import huey_app  # noqa: PLC0415  # an optional peer

        self.who = HUEY[durability]
        self._settings = (str(folder / f"huey-{durability}.db"), str(durability == "full"))
        self._noop, self._moment, self._huey = huey_app.make(self._settings[0], durability == "full")

    def submit(self, number: int) -> object:
        return self._noop(number)

    def drain(self, count: int) -> float:
        for number in range(count):
            self._noop(number)
        with self.worker():
            return drain_rate(count, self._huey.pending_count)

    def call(self) -> float:
        return float(self._moment().get(blocking=True, timeout=_RESULT_LIMIT_S))

    def worker(self) -> AbstractContextManager[int | None]:
        return process(_worker("huey_app", *self._settings))

    def close(self) -> None:
        self._huey.storage.close()


class Celery:
    """Celery with its broker and its results in Redis, and a pool of four threads unless told otherwise."""

    def __init__(self, url: str, durability: str, *, pool: str = "threads", slots: int = 4) -> None:
        import celery_app  # noqa: PLC0415  # an optional peer

        self.who = CELERY[durability]
        self.drain_count = {"full": 400, "relaxed": 1_500}[durability]
        self._pool = ["-P", pool, "-c", str(slots)]
        self._url, self._broker = url, celery_app.broker(url)
        self._noop, self._moment, self._app = celery_app.make(url)

    def submit(self, number: int) -> object:
        return self._noop.delay(number)

    def drain(self, count: int) -> float:
        for number in range(count):
            self._noop.delay(number)
        with self.worker():
            return drain_rate(count, lambda: int(self._broker.llen("celery")))

    def call(self) -> float:
        return float(self._moment.delay().get(timeout=_RESULT_LIMIT_S))

    def worker(self) -> AbstractContextManager[int | None]:
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", *self._pool]
        return process(command, BENCH_REDIS=self._url)

    def close(self) -> None:
        self._broker.close()
        self._app.close()


class Arq:
    """arq's worker, which runs coroutines, its jobs and results in Redis, in processes of an environment of its own."""

    drain_count = 2_000

    def __init__(self, url: str, poll_s: float) -> None:
        from redis import Redis  # noqa: PLC0415  # an optional peer

        self._python = interpreter("arq")
        self._url, self._poll_s = url, str(poll_s)
        self._broker = Redis.from_url(url)
        self._broker.flushdb()

    def drain(self, count: int) -> float:
        self._call("submit", str(count))
        with self.worker():
            return drain_rate(count, lambda: int(self._broker.zcard("arq:queue")))

    def latencies(self, count: int) -> list[float]:
        """Milliseconds from submit to result of *count* jobs, one after another, with a new worker."""
        with self.worker():
            times: list[float] = json.loads(self._call("latencies", str(count), self._poll_s))
        return times

    def worker(self) -> AbstractContextManager[int]:
        return process(_worker("arq_app", self._url, self._poll_s, interpreter=self._python))

    def close(self) -> None:
        self._broker.close()

    def _call(self, function: str, *arguments: str) -> str:
        script = f"import sys, arq_app; arq_app.{function}(*sys.argv[1:])"
        return python(script, self._url, *arguments, interpreter=self._python)


@contextmanager
def producers(bench: Bench, durability: str) -> Iterator[list[Producer]]:
    """The sides and, before them, the bare loop."""
    bare = BareLoop(bench.room(), durability)
    try:
        with sides(bench, durability) as others:
            yield [bare, *others]
    finally:
        bare.close()


@contextmanager
def sides(bench: Bench, durability: str) -> Iterator[list[Side]]:
    """Ourselves and the peers that are here, with empty queues; ourselves only when *bench* is alone."""
    room = bench.room()
    makers: list[tuple[str, Callable[[], Side]]] = [(OURS, lambda: Thirdshift(room, durability))]
    if not bench.alone:
        makers.append((HUEY[durability], lambda: Huey(room, durability)))
        makers.append((CELERY[durability], lambda: Celery(redis_url(bench, durability), durability)))
        makers += [
            (name[durability], partial(_on_redis, kind, bench, durability))
            for kind, name in (("Dramatiq", DRAMATIQ), ("Taskiq", TASKIQ), ("Rq", RQ))
        ]
        if durability == "relaxed":
            makers.append((THREADS, Threads))
    with ExitStack() as closing:
        found: list[Side] = []
        for who, make in makers:
            try:
                side = make()
            except (ImportError, Skipped) as reason:
                bench.skip(who, reason)
            else:
                closing.callback(side.close)
                found.append(side)
        yield found


def _on_redis(kind: str, bench: Bench, durability: str) -> Side:
    import redis_peers  # noqa: PLC0415  # which needs this module

    database = {"Dramatiq": 1, "Taskiq": 2, "Rq": 3}[kind]  # of its own: each side begins by forgetting all
    side: Side = getattr(redis_peers, kind)(f"{redis_url(bench, durability).removesuffix('0')}{database}", durability)
    return side


def redis_url(bench: Bench, durability: str) -> str:
    """Return the address of the run's Redis server of that durability, started at the first call."""
    if durability not in bench.redis:
        bench.redis[durability] = bench.closing.enter_context(redis_server(bench.room(), durability))
    return bench.redis[durability][0]


@contextmanager
def redis_server(folder: Path, durability: str) -> Iterator[tuple[str, int]]:
    """Run a Redis server of that durability on a free port; gives its address and process id."""
    if shutil.which("redis-server") is None:
        raise Skipped("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with process([*command, *_REDIS[durability]]) as pid:
        _await_port(port)
        yield f"redis://127.0.0.1:{port}/0", pid


def drain_rate(count: int, waiting: Callable[[], int]) -> float:
    """Watch the queue run empty; the clock starts, in the peer's favour, with its worker's first tasks."""
    limit = time.monotonic() + _DRAIN_LIMIT_S
    while (left := waiting()) >= count:
        _nap(limit)
    started = time.perf_counter()
    while waiting():
        _nap(limit)
    return left / (time.perf_counter() - started)


@contextmanager
def process(command: list[str], **variables: str) -> Iterator[int]:
    """Run *command* until the block ends; gives its process id."""
    child = subprocess.Popen(
        command,
        cwd=HERE,
        env={**child_environment(), **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield child.pid
    finally:
        child.terminate()
        try:
            child.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


def _worker(module: str, *arguments: str, interpreter: str = sys.executable) -> list[str]:
    return [interpreter, "-c", f"import sys, {module}; {module}.serve(*sys.argv[1:])", *arguments]


def _await_port(port: int) -> None:
    limit = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > limit:
            raise Skipped("redis-server does not start")
        time.sleep(0.02)


def _nap(limit: float) -> None:
    if time.monotonic() > limit:
        raise TimeoutError(f"a peer did not drain its queue within {_DRAIN_LIMIT_S} s")
    time.sleep(0.01)
