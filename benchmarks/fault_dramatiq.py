"""dramatiq with Redis, acknowledged when it has run (there is no other way), heartbeats of five seconds, not sixty."""

import os
import sys

import dramatiq
import fault_tasks
from dramatiq.brokers.redis import RedisBroker

SETTINGS = "heartbeat_timeout 5 s, maintenance at every tenth call, 4 threads, Redis appendfsync always"
RESCUE_AGE_S = 5

broker = RedisBroker(url=os.environ["FAULTS_PLACE"], heartbeat_timeout=RESCUE_AGE_S * 1000, maintenance_chance=100_000)
dramatiq.set_broker(broker)
_TASKS = {
    kind: dramatiq.actor(function, actor_name=kind, max_retries=3)
    for kind, function in (("work", fault_tasks.work), ("poison", fault_tasks.poison))
}


def submit(log: str, kind: str, first: str, count: str, seconds: str) -> None:
    """Submit *count* tasks."""
    for number in range(int(first), int(first) + int(count)):
        _TASKS[kind].send(log, number, float(seconds))
    print(count)


def serve() -> None:
    """Run a worker until it is told to stop."""
    from dramatiq.cli import main, make_argument_parser  # noqa: PLC0415  # the submitting side does not need it

    sys.exit(main(make_argument_parser().parse_args(["fault_dramatiq", "--processes", "1", "--threads", "4"])))


def known() -> None:
    """Print how many messages it has: waiting, delayed, and held by some worker, dead or alive."""
    queues = ("dramatiq:default", "dramatiq:default.DQ")
    held = sum(broker.client.scard(key) for key in broker.client.scan_iter("dramatiq:__acks__.*"))
    print(held + sum(broker.client.llen(queue) for queue in queues))
