"""Recurring work: an interval, a cron expression in a time zone, and a run by hand.

    python examples/schedules.py

Prints what fires when, runs the interval three times, and ends. The schedules are in a file that is thrown away; in
yours they go on at the next start.
"""

import tempfile
import threading
from datetime import timedelta
from pathlib import Path

from thirdshift import BackgroundTaskManager, Schedule


def sync(region: str) -> str:
    """Do a little work."""
    return f"{region} is in step"


def report() -> str:
    """Do it rarely."""
    return "nobody slept badly"


def main() -> None:
    """Schedule, look, and run."""
    three_runs = threading.Semaphore(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        BackgroundTaskManager(database=Path(folder) / "app.db", observe=lambda _: three_runs.release()) as manager,
    ):
        manager.schedule_task_cron(report, "30 2 * * *", timezone="America/New_York", name="nightly")
        manager.schedules.add(
            sync, Schedule(every=timedelta(seconds=0.3), overlap="queue"), args=["north"], name="sync"
        )
        for state in manager.schedules.all():
            print(f"{state.name}: {state.words}; next {state.next_at:%Y-%m-%d %H:%M} UTC")
        while manager.get_stats()["completed"] < 3:
            three_runs.acquire(timeout=1)
        manager.schedules.pause("sync")
        fire = manager.schedules.run_now("nightly")
        assert fire.task is not None
        print(f"the report of tonight: {manager.handle(fire.task).result(timeout=30)}")
        print(f"it is {manager.get_task(fire.task).status.value}")


if __name__ == "__main__":
    main()
