"""The Celery peer: a no-op task and one that returns when it ran; broker and results in Redis."""

import os
from typing import Any

import redis
from celery import Celery
from functions import moment, noop


def make(url: str) -> tuple[Any, Any, Any]:
    """Return (no-op task, moment task, app) on the Redis server at *url*."""
    made = Celery("celery_app", broker=url, backend=url, set_as_current=False)
    made.conf.worker_hijack_root_logger = False
    return made.task(name="noop")(noop), made.task(name="moment")(moment), made


def broker(url: str) -> redis.Redis:
    """Return a connection to the broker, all tasks and results forgotten; what waits is the list ``celery``."""
    connection = redis.Redis.from_url(url)
    connection.flushdb()
    return connection


if "BENCH_REDIS" in os.environ:  # in a worker
    app = make(os.environ["BENCH_REDIS"])[2]
