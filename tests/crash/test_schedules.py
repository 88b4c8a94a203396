"""Each fire time makes exactly one task: four processes tick one file, are killed, and the clock is set to and fro.

The clock is simulated and shared by all of them. Short form: six weeks in which most zones change their clocks; the
long one is ``make schedules``, ten years (``THIRDSHIFT_YEARS=10``), other moments at every run.
"""

import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from thirdshift.core import codec
from thirdshift.core.engine import ClaimRequest, Registration
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.schedule import Schedule
from thirdshift.core.schedule_store import NewSchedule, ScheduleState
from thirdshift.core.status import TaskStatus
from thirdshift.core.task import AttemptOutcome, PoolKind, TaskSpec
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.clock import SharedClock

PROGRAM = Path(__file__).with_name("ticker.py")
YEARS = float(os.environ.get("THIRDSHIFT_YEARS") or 0)
SEED = random.randrange(2**32) if YEARS else 7
START = datetime(2025, 9, 25, tzinfo=UTC)
END = START + (timedelta(days=365.25 * YEARS) if YEARS else timedelta(days=41))
KILLS = 200 if YEARS else 8
STEPS = 100 if YEARS else 6
"""How often the clock is set back by a day, and later by a day too far ahead."""
TICKERS = 4
ZONES = (
    "America/New_York", "America/St_Johns", "America/Sao_Paulo", "America/Santiago", "Europe/Berlin", "Europe/London",
    "Africa/Casablanca", "Africa/Cairo", "Asia/Tehran", "Asia/Kolkata", "Australia/Lord_Howe", "Australia/Sydney",
    "Pacific/Chatham",
)  # fmt: skip
DAY = timedelta(days=1)


class Tickers:
    """The processes; one that is killed is replaced."""

    def __init__(self, database: Path, clock: Path) -> None:
        self._command = [sys.executable, str(PROGRAM), str(database), str(clock)]
        self.processes = [self._start() for _ in range(TICKERS)]
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def kill_one(self, rng: random.Random) -> None:
        victim = rng.randrange(TICKERS)
        self.processes[victim].send_signal(signal.SIGKILL)
        self.processes[victim].communicate()
        self.processes[victim] = self._start()

    def end(self) -> None:
        for process in self.processes:
            process.communicate()
            assert process.returncode == 0


@contextmanager
def ticking(database: Path, clock: Path) -> Iterator[Tickers]:
    tickers = Tickers(database, clock)
    try:
        yield tickers
        tickers.end()
    finally:
        for process in tickers.processes:
            process.kill()


def put_schedules(engine: SQLiteEngine) -> list[ScheduleState]:
    spec = TaskSpec(
        name="echo", function="thirdshift.testing.functions:echo", queue="default", pool=PoolKind.THREAD, durable=False
    )
    rules = [
        Schedule(cron=cron, timezone=zone, missed="all", overlap="queue")
        for zone in ZONES
        for cron in ("30 2 * * *", "0 1,12 * * *", "0 */6 * * *")
    ]
    rules.append(Schedule(every=4 * 3600, missed="all", overlap="queue"))
    arguments = codec.encode_arguments((1,), {})
    return [
        engine.schedules.put(
            NewSchedule(name=f"{number:02} {rule.words}", schedule=rule, task=spec, arguments=arguments)
        )
        for number, rule in enumerate(rules)
    ]


def finish_all(engine: SQLiteEngine, worker: Registration, clock: SharedClock, until: datetime) -> None:
    """Run what there is, until every fire time up to *until* has been acted on and its task has ended."""
    while True:
        is_behind = any(state.next_at is not None and state.next_at <= until for state in engine.schedules.all())
        claims = engine.exchange([], ClaimRequest(owner=worker.id, free={PoolKind.THREAD: 500})).claims
        now = clock.now()
        ends = [settle(claim, Ending(AttemptOutcome.COMPLETED, now, now), 1.0) for claim in claims]
        assert all(engine.exchange(ends, None).recorded)
        if not is_behind and not claims:
            return


@pytest.mark.timeout(7200 if YEARS else 240)
def test_each_fire_time_makes_exactly_one_task(tmp_path: Path) -> None:
    """In 13 zones, over changes of their clocks, downtimes, kills and a clock that is set by a day."""
    rng = random.Random(SEED)
    sys.stdout.write(f"seed {SEED}\n")
    moment = tmp_path / "clock"
    clock = SharedClock(moment, START)
    with closing(SQLiteEngine.shared(tmp_path / "app.db", clock=clock)) as engine:
        states = put_schedules(engine)
        worker = engine.register(slots=500)
        with ticking(tmp_path / "app.db", moment) as tickers:
            total = (END - START).total_seconds()
            kills = sorted(START + timedelta(seconds=rng.uniform(0, total)) for _ in range(KILLS))
            steps = sorted(START + 2 * DAY + timedelta(seconds=rng.uniform(0, total)) for _ in range(STEPS))
            now = START
            while now < END:
                now += timedelta(seconds=rng.choice((3600, 6 * 3600, 14 * 3600, 60 * 3600)) * rng.uniform(0.5, 1.0))
                clock.set(now)
                while kills and kills[0] < now:
                    kills.pop(0)
                    tickers.kill_one(rng)
                finish_all(engine, worker, clock, now)
                if steps and steps[0] < now:
                    steps.pop(0)
                    for hours in range(24, 0, -6):
                        earlier = now - timedelta(hours=hours)
                        clock.set(earlier)
                        finish_all(engine, worker, clock, earlier)
            clock.set(now)
            finish_all(engine, worker, clock, now)
        worker.close()
        fires = fires_by_schedule(engine)
        total_tasks = sum(map(len, fires.values()))
        assert {status: count for status, count in engine.counts().items() if count} == {
            TaskStatus.COMPLETED: total_tasks
        }
        assert engine._read("SELECT max(attempt), (SELECT count(*) FROM attempt) FROM task") == [(1, total_tasks)]
    for state in states:
        schedule, expected = state.schedule, []
        for at in schedule.following(START, START):
            if at > now:
                break
            expected.append(at)
        assert fires[state.id] == expected, state.name
    assert not kills


def fires_by_schedule(engine: SQLiteEngine) -> dict[str, list[datetime]]:
    """The fire times of all tasks: a task's id begins with it, in milliseconds."""
    found: dict[str, list[datetime]] = defaultdict(list)
    for schedule, task_id in engine._read("SELECT schedule, id FROM task ORDER BY id"):
        found[schedule].append(datetime.fromtimestamp(int(task_id[:12], 16) / 1000, UTC))
    return found
