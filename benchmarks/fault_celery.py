"""Celery with Redis, as its documentation makes it safest: acknowledged late, given back when a child is lost."""

import os

import fault_tasks
import redis
from celery import Celery

SETTINGS = "acks_late, reject_on_worker_lost, prefetch 1, visibility_timeout 10 s, Redis appendfsync always"
RESCUE_AGE_S = 10
POOL = ["--pool", "prefork", "--concurrency", "4"]

app = Celery("fault_celery", broker=os.environ["FAULTS_PLACE"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": RESCUE_AGE_S},
)
app.task(name="work")(fault_tasks.work)
app.task(name="poison")(fault_tasks.poison)


def submit(log: str, kind: str, first: str, count: str, seconds: str) -> None:
    """Submit *count* tasks."""
    for number in range(int(first), int(first) + int(count)):
        app.send_task(kind, (log, number, float(seconds)))
    print(count)


def serve(*pool: str) -> None:
    """Run a worker until it is told to stop."""
    app.worker_main(["worker", "--loglevel", "critical", *(pool or POOL)])


def known() -> None:
    """Print how many tasks the broker has: waiting ones, and those that somebody has not acknowledged."""
    broker = redis.Redis.from_url(os.environ["FAULTS_PLACE"])
    print(broker.llen("celery") + broker.hlen("unacked"))
