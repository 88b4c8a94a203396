"""From the death of a worker to the next start of its task on another: thread pool and process pool, by kill -9."""

import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from bench import OURS, Bench, child_environment
from functions import log_start

from thirdshift import BackgroundTaskManager

NAME = "kill -9 of a worker to the next start, {} pool"
_STATEMENT = "import sys, thirdshift_app; thirdshift_app.serve(sys.argv[1], 32)"
"""With a slot for every task: one that was rescued and cancelled sleeps on in its thread."""
_LOOK_S = 1.3
"""Longer than the safety interval, so that each worker knows of the other."""


def death(bench: Bench) -> None:
    """Two workers; the one that runs the task is killed, and another takes its place."""
    for pool in ("thread", "process"):
        bench.add(NAME.format(pool), OURS, "ms", _deaths(bench, pool, 3 if bench.quick else 15))


def _deaths(bench: Bench, pool: str, count: int) -> list[float]:
    folder = bench.room()
    database, log = folder / "tasks.db", folder / "log"
    found: list[float] = []
    with BackgroundTaskManager(database=database, start=False) as manager:
        workers = {worker.pid: worker for worker in (_start(database), _start(database))}
        for number in range(count):
            while len(manager.workers()) != 2:
                time.sleep(0.01)
            time.sleep(_LOOK_S)
            log.write_text("")
            task_id = manager.options(pool=pool).submit(log_start, str(log)).id
            (first,) = _lines(log, 1)
            victim = workers.pop(_ancestor(int(first[1]), workers))
            killed_at = time.monotonic()
            victim.kill()
            victim.wait()
            found.append((float(_lines(log, 2)[1][0]) - killed_at) * 1000)
            manager.cancel_task(task_id)
            if number < count - 1:
                worker = _start(database)
                workers[worker.pid] = worker
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return found


def _start(database: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _STATEMENT, str(database)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=child_environment())


def _ancestor(pid: int, workers: Collection[int]) -> int:
    """Return which of *workers* is the process *pid* or has started it."""
    while pid not in workers:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid


def _lines(log: Path, count: int) -> list[list[str]]:
    """Return the lines of *log* once there are *count*."""
    while len(lines := log.read_text().splitlines()) < count:
        time.sleep(0.001)
    return [line.split() for line in lines]
