"""Ourselves as we are by default, but for four threads: `full` durability, three attempts when the process dies."""

import os
import sys

import fault_tasks

from thirdshift import BackgroundTaskManager

SETTINGS = "defaults, 4 threads"
RESCUE_AGE_S = 10
"""There is none: the kernel says who is dead. As long as Celery's, to be compared."""
_FINISHED = {"completed", "failed", "cancelled"}
_manager: BackgroundTaskManager


def fork(log: str, number: int, _seconds: float) -> None:
    """Fork, in a thread of the worker."""
    fault_tasks.fork(log, number, None)


def fork_submit(log: str, number: int, seconds: float) -> None:
    """Fork, in a thread of the worker; the child submits."""
    fault_tasks.fork(log, number, lambda child: _manager.submit(fault_tasks.work, log, child, seconds))


def submit(log: str, kind: str, first: str, count: str, seconds: str) -> None:
    """Submit *count* tasks; a poison in a process of its own, as the documentation advises for what may crash."""
    function, options = {
        "work": (fault_tasks.work, {}),
        "poison": (fault_tasks.poison, {"pool": "process"}),
        "fork": (fork, {}),
        "fork-submit": (fork_submit, {}),
    }[kind]
    with BackgroundTaskManager(database=os.environ["FAULTS_PLACE"], start=False) as manager:
        for number in range(int(first), int(first) + int(count)):
            manager.options(**options).submit(function, log, number, float(seconds))
    print(count)


def serve() -> None:
    """Work until standard input ends."""
    global _manager  # tasks that submit find it here
    with BackgroundTaskManager(database=os.environ["FAULTS_PLACE"], max_workers=4) as _manager:
        sys.stdin.read()


def known() -> None:
    """Print how many tasks are not finished."""
    with BackgroundTaskManager(database=os.environ["FAULTS_PLACE"], start=False) as manager:
        print(sum(count for status, count in manager.count_tasks().items() if status.value not in _FINISHED))
