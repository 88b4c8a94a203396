"""What the monitor costs a worker: the same drain with it and without, in turn, as wall clock and as processor time."""

from collections import defaultdict

from bench import OURS, Bench
from functions import noop
from peers import python

from thirdshift import BackgroundTaskManager

RATE = "drain full, 4 threads, monitor {}"
CPU = "processor time of a task, monitor {}"
_COUNT = 150_000
"""Ten seconds and more: the monitor folds what has ended several times meanwhile."""
_STATEMENT = """
import sys, time, thirdshift_app as app
seconds = app.drain(sys.argv[1], monitor_enabled=sys.argv[2] == "on")
print(seconds, time.process_time())
"""


def monitoring(bench: Bench) -> None:
    """Drain no-op tasks by a process of its own; who is first changes from round to round."""
    count = _COUNT // (10 if bench.quick else 1)
    rates: dict[str, list[float]] = defaultdict(list)
    used: dict[str, list[float]] = defaultdict(list)
    for number in range(bench.rounds):
        for state in ("on", "off") if number % 2 else ("off", "on"):
            database = str(bench.room() / "tasks.db")
            with BackgroundTaskManager(database=database, start=False) as manager:
                manager.submit_many(noop, [(number,) for number in range(count)])
            seconds, cpu_s = map(float, python(_STATEMENT, database, state).split())
            rates[state].append(count / seconds)
            used[state].append(cpu_s / count * 1e6)
    for state in ("off", "on"):
        bench.add(RATE.format(state), OURS, "tasks/s", rates[state])
        bench.add(CPU.format(state), OURS, "us", used[state])
