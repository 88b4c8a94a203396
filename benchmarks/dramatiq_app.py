"""The dramatiq peer: a no-op task and one that returns when it ran; messages and results in Redis."""

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from functions import moment, noop


def make(url: str) -> tuple[Any, Any, Any, Any]:
    """Return (no-op actor, moment actor, broker, results) on the Redis server at *url*."""
    broker, results = RedisBroker(url=url), RedisBackend(url=url)
    broker.add_middleware(Results(backend=results))
    actors = [
        dramatiq.actor(function, broker=broker, actor_name=function.__name__, store_results=function is moment)
        for function in (noop, moment)
    ]
    return (*actors, broker, results)


if "BENCH_REDIS" in os.environ:  # in a worker
    dramatiq.set_broker(make(os.environ["BENCH_REDIS"])[2])
