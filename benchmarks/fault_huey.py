"""huey on SQLite, three retries, fsync; its consumer has four threads."""

import os

import fault_tasks
from huey import SqliteHuey

SETTINGS = "SqliteHuey(fsync=True), retries=3, 4 threads"
RESCUE_AGE_S = 10
"""There is none: what was running is not known to anybody. As long as Celery's, to be compared."""

huey = SqliteHuey(filename=os.environ["FAULTS_PLACE"], fsync=True)
_work = huey.task(name="work", retries=3)(fault_tasks.work)
_poison = huey.task(name="poison", retries=3)(fault_tasks.poison)


@huey.task(name="fork", retries=3)
def _fork(log: str, number: int, _seconds: float) -> None:
    fault_tasks.fork(log, number, None)


@huey.task(name="fork-submit", retries=3)
def _fork_submit(log: str, number: int, seconds: float) -> None:
    fault_tasks.fork(log, number, lambda child: _work(log, child, seconds))


_TASKS = {"work": _work, "poison": _poison, "fork": _fork, "fork-submit": _fork_submit}


def submit(log: str, kind: str, first: str, count: str, seconds: str) -> None:
    """Submit *count* tasks."""
    for number in range(int(first), int(first) + int(count)):
        _TASKS[kind](log, number, float(seconds))
    print(count)


def serve() -> None:
    """Run a consumer until it is told to stop."""
    from huey.consumer import Consumer  # noqa: PLC0415  # the submitting side does not need it

    Consumer(huey, workers=4, worker_type="thread").run()


def known() -> None:
    """Print how many tasks wait."""
    print(huey.pending_count() + huey.scheduled_count())
