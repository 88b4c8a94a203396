"""Three more sides with a Redis server: dramatiq and taskiq with four slots, RQ, whose worker forks for each job."""

import asyncio
import sys
import threading
from contextlib import AbstractContextManager

from peers import DRAMATIQ, RQ, TASKIQ, drain_rate, process

_RESULT_LIMIT_S = 30


class Dramatiq:
    """One process with four threads, and one that watches it."""

    drain_count = 1_500

    def __init__(self, url: str, durability: str) -> None:
        import dramatiq_app  # noqa: PLC0415  # an optional peer

        self.who, self._url = DRAMATIQ[durability], url
        self._noop, self._moment, self._broker, self._results = dramatiq_app.make(url)
        self._redis = self._broker.client
        self._redis.flushdb()

    def submit(self, number: int) -> object:
        return self._noop.send(number)

    def drain(self, count: int) -> float:
        for number in range(count):
            self._noop.send(number)
        with self.worker():
            return drain_rate(count, self._waiting)

    def call(self) -> float:
        limit_ms = _RESULT_LIMIT_S * 1000
        return float(self._moment.send().get_result(backend=self._results, block=True, timeout=limit_ms))

    def worker(self) -> AbstractContextManager[int | None]:
        command = [sys.executable, "-m", "dramatiq", "dramatiq_app", "--processes", "1", "--threads", "4"]
        return process(command, BENCH_REDIS=self._url)

    def close(self) -> None:
        self._broker.close()

    def _waiting(self) -> int:
        held = sum(self._redis.scard(key) for key in self._redis.scan_iter("dramatiq:__acks__.*"))
        return int(held + self._redis.llen("dramatiq:default"))


class Rq:
    """One worker; it does one job at a time."""

    drain_count = 60

    def __init__(self, url: str, durability: str) -> None:
        from redis import Redis  # noqa: PLC0415  # an optional peer
        from rq import Queue  # noqa: PLC0415

        self.who, self._url = RQ[durability], url
        self._redis = Redis.from_url(url)
        self._redis.flushdb()
        self._queue = Queue("bench", connection=self._redis)

    def submit(self, number: int) -> object:
        return self._queue.enqueue("functions.noop", number)

    def drain(self, count: int) -> float:
        for number in range(count):
            self.submit(number)
        with self.worker():
            return drain_rate(count, lambda: int(self._queue.count))

    def call(self) -> float:
        result = self._queue.enqueue("functions.moment").latest_result(timeout=_RESULT_LIMIT_S)
        assert result is not None, "it runs"
        return float(result.return_value)

    def worker(self) -> AbstractContextManager[int | None]:
        return process([sys.executable, "-m", "rq.cli", "worker", "bench", "--url", self._url, "--quiet"])

    def close(self) -> None:
        self._redis.close()


class Taskiq:
    """One process, four coroutines at once."""

    drain_count = 1_500

    def __init__(self, url: str, durability: str) -> None:
        import taskiq_app  # noqa: PLC0415  # an optional peer
        from redis import Redis  # noqa: PLC0415

        self.who, self._url = TASKIQ[durability], url
        self._redis = Redis.from_url(url)
        self._redis.flushdb()
        self._loop, self._mutex = asyncio.new_event_loop(), threading.Lock()
        self._noop, self._moment, self._broker = taskiq_app.make(url)
        self._loop.run_until_complete(self._broker.startup())

    def submit(self, number: int) -> object:
        with self._mutex:  # a loop belongs to one thread at a time
            return self._loop.run_until_complete(self._noop.kiq(number))

    def drain(self, count: int) -> float:
        async def submit_all() -> None:
            for number in range(count):
                await self._noop.kiq(number)

        self._loop.run_until_complete(submit_all())
        with self.worker():
            return drain_rate(count, self._waiting)

    def call(self) -> float:
        async def call_once() -> float:
            task = await self._moment.kiq()
            result = await task.wait_result(timeout=_RESULT_LIMIT_S)
            return float(result.return_value)

        return self._loop.run_until_complete(call_once())

    def worker(self) -> AbstractContextManager[int | None]:
        command = [sys.executable, "-m", "taskiq", "worker", "taskiq_app:broker", "--workers", "1"]
        return process([*command, "--max-async-tasks", "4"], BENCH_REDIS=self._url)

    def close(self) -> None:
        self._loop.run_until_complete(self._broker.shutdown())
        self._loop.close()
        self._redis.close()

    def _waiting(self) -> int:
        (group,) = self._redis.xinfo_groups("taskiq")
        return int((group["lag"] or 0) + group["pending"])
