"""The arq peer, for the interpreter of its own environment: its worker, its submits and its latencies, in Redis."""

import asyncio
import json
import time

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func
from functions import anoop

_JOBS = 100
"""As many at once as our event loop runs."""
_GAP_S = 0.02


async def _anoop(_context: object, number: int) -> object:
    return await anoop(number)


def serve(url: str, poll_s: str) -> None:
    """Run a worker, which looks for jobs every *poll_s* seconds, until it is told to stop."""
    settings = RedisSettings.from_dsn(url)
    Worker([func(_anoop, name="anoop")], redis_settings=settings, max_jobs=_JOBS, poll_delay=float(poll_s)).run()


def submit(url: str, count: str) -> None:
    """Submit so many no-op jobs; prints how many."""

    async def submit_all() -> None:
        async with await create_pool(RedisSettings.from_dsn(url)) as pool:
            for number in range(int(count)):
                await pool.enqueue_job("anoop", number)

    asyncio.run(submit_all())
    print(count)


def latencies(url: str, count: str, poll_s: str) -> None:
    """Submit so many jobs, each when the result of the one before is there; prints the milliseconds of each as JSON."""

    async def wait_for_each() -> list[float]:
        times = []
        async with await create_pool(RedisSettings.from_dsn(url)) as pool:
            for number in range(int(count)):
                await asyncio.sleep(_GAP_S)
                began = time.monotonic()
                job = await pool.enqueue_job("anoop", number)
                assert job is not None, "the id is new"
                await job.result(30, poll_delay=float(poll_s))
                times.append((time.monotonic() - began) * 1000)
        return times

    print(json.dumps(asyncio.run(wait_for_each())))
