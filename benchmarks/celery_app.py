"""The Celery peer: one no-op task, results in Redis."""

import os

import redis
from celery import Celery

_URL = os.environ["BENCH_REDIS"]
app = Celery("celery_app", broker=_URL, backend=_URL)
app.conf.worker_hijack_root_logger = False


@app.task
def run(number: int) -> int:
    return number


def pending() -> int:
    """Return how many messages wait in the broker."""
    return int(redis.Redis.from_url(_URL).llen("celery"))
