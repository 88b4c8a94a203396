"""The taskiq peer: a no-op task and one that returns when it ran; a stream and results in Redis."""

import os
from typing import Any

from functions import anoop, moment
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker


async def amoment(_number: object = 0) -> float:
    return moment()


def make(url: str) -> tuple[Any, Any, Any]:
    """Return (no-op task, moment task, broker) on the Redis server at *url*."""
    made = RedisStreamBroker(url).with_result_backend(RedisAsyncResultBackend(url))
    return made.register_task(anoop, task_name="anoop"), made.register_task(amoment, task_name="amoment"), made


if "BENCH_REDIS" in os.environ:  # in a worker
    broker = make(os.environ["BENCH_REDIS"])[2]
