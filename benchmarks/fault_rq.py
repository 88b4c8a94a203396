"""RQ, three retries, its maintenance every five seconds and a job's monitoring too, instead of 600 and 30."""

import os

import fault_tasks
from redis import Redis
from rq import Queue, Retry, Worker
from rq.registry import DeferredJobRegistry, FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

SETTINGS = "Retry(max=3), maintenance_interval 5 s, job_monitoring_interval 5 s, Redis appendfsync always"
RESCUE_AGE_S = 65
"""A job counts as abandoned when its last heartbeat is older than the monitoring interval and a minute."""

_connection = Redis.from_url(os.environ["FAULTS_PLACE"])
_queue = Queue("faults", connection=_connection)
_TASKS = {"work": fault_tasks.work, "poison": fault_tasks.poison}


def submit(log: str, kind: str, first: str, count: str, seconds: str) -> None:
    """Submit *count* tasks."""
    for number in range(int(first), int(first) + int(count)):
        _queue.enqueue(_TASKS[kind], log, number, float(seconds), retry=Retry(max=3))
    print(count)


def serve() -> None:
    """Run a worker, which forks for each job, until it is told to stop."""
    worker = Worker([_queue], connection=_connection, maintenance_interval=5, job_monitoring_interval=5)
    worker.work(with_scheduler=True, logging_level="CRITICAL")


def known() -> None:
    """Print how many jobs it has: waiting, started, deferred, scheduled; those that it has told as failed are done."""
    registries = (StartedJobRegistry, DeferredJobRegistry, ScheduledJobRegistry)
    waiting = len(_queue.get_job_ids()) + _connection.llen(_queue.intermediate_queue_key)
    print(waiting + sum(_connection.zcard(kind(queue=_queue).key) for kind in registries))


def failed() -> None:
    """Print how many jobs it has told as failed."""
    print(_connection.zcard(FailedJobRegistry(queue=_queue).key))
