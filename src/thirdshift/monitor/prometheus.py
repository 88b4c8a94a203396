"""Figures in the text format of Prometheus, computed from the store at each scrape.

Written by ourselves: a client library counts in one process, and these are the figures of all of them. Names are
``thirdshift_…`` in base units; labels tell apart tasks, queues, outcomes and states, never a task's or worker's id.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from shutil import disk_usage

from thirdshift.core.alerts import AlertKind
from thirdshift.core.engine import Engine
from thirdshift.core.figures import Bucket, Histogram, QueueLoad, Span
from thirdshift.core.task import AttemptOutcome

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LIMITS_S = tuple(2**power / 1e6 for power in range(10, 41, 2))
"""Upper limits of the histograms' buckets, 1 ms to 13 days: powers of two of a microsecond, where our own ones end."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Family:
    """One metric with its samples: suffix of the name, labels, value."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, Labels, float]] = field(default_factory=list)

    def text(self) -> str:
        lines = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} {self.kind}"]
        lines += [f"{self.name}{suffix}{_labels(labels)} {_number(value)}" for suffix, labels, value in self.samples]
        return "\n".join(lines)


def render(engine: Engine, now: datetime) -> str:
    """Return all metrics of the store. Raises ``StoreError``."""
    families = [*_of_attempts(engine.buckets(Span.EVER)), *_of_queues(engine.loads(), now), *_of_workers(engine)]
    families += [*_of_files(engine), _of_alerts(engine)]
    return "\n".join(family.text() for family in families) + "\n"


def _of_attempts(buckets: Sequence[Bucket]) -> Iterable[_Family]:
    attempts = _Family(name="thirdshift_attempts_total", kind="counter", help="Ended attempts, by how they ended.")
    given_up = _Family(name="thirdshift_tasks_failed_total", kind="counter", help="Tasks that failed for good.")
    runs = _Family(
        name="thirdshift_run_seconds",
        kind="histogram",
        help="Run time of attempts that came to an end of their own.",
    )
    waits = _Family(
        name="thirdshift_queue_wait_seconds",
        kind="histogram",
        help="Time from the moment at which a task could have started to its start.",
    )
    for bucket in buckets:
        labels = ("task", bucket.name), ("queue", bucket.queue)
        figures = bucket.figures
        for outcome in AttemptOutcome:
            attempts.samples.append(("", (*labels, ("outcome", outcome.value)), figures.count(outcome)))
        given_up.samples.append(("", labels, figures.given_up))
        _add_histogram(runs, labels, figures.run_times, figures.run_us)
        _add_histogram(waits, labels, figures.queue_times, figures.queue_us)
    return attempts, given_up, runs, waits


def _add_histogram(family: _Family, labels: Labels, histogram: Histogram, sum_us: int) -> None:
    for limit_s in _LIMITS_S:
        family.samples.append(("_bucket", (*labels, ("le", _number(limit_s))), histogram.count_below(limit_s)))
    family.samples.append(("_bucket", (*labels, ("le", "+Inf")), histogram.total))
    family.samples.append(("_sum", labels, sum_us / 1e6))
    family.samples.append(("_count", labels, histogram.total))


def _of_queues(loads: Sequence[QueueLoad], now: datetime) -> Iterable[_Family]:
    tasks = _Family(
        name="thirdshift_queue_tasks",
        kind="gauge",
        help="Unfinished tasks: waiting ones could start now, later ones are due later or wait for others.",
    )
    latency = _Family(
        name="thirdshift_queue_latency_seconds",
        kind="gauge",
        help="Age of the oldest task that could start, else 0.",
    )
    paused = _Family(name="thirdshift_queue_paused", kind="gauge", help="1 while the queue is paused.")
    for load in loads:
        queue = ("queue", load.queue)
        for state, count in (("waiting", load.waiting), ("later", load.later), ("running", load.running)):
            tasks.samples.append(("", (queue, ("state", state)), count))
        age_s = 0.0 if load.oldest_due_at is None else max(0.0, (now - load.oldest_due_at).total_seconds())
        latency.samples.append(("", (queue,), age_s))
        paused.samples.append(("", (queue,), load.is_paused))
    return tasks, latency, paused


def _of_workers(engine: Engine) -> Iterable[_Family]:
    found = engine.workers()
    alive = [worker for worker in found if worker.is_alive]
    workers = _Family(name="thirdshift_workers", kind="gauge", help="Registered workers, alive or dead.")
    workers.samples.append(("", (("state", "alive"),), len(alive)))
    workers.samples.append(("", (("state", "dead"),), len(found) - len(alive)))
    slots = _Family(name="thirdshift_worker_slots", kind="gauge", help="Tasks that the live workers can run at once.")
    slots.samples.append(("", (), sum(worker.slots for worker in alive)))
    busy = _Family(name="thirdshift_worker_slots_busy", kind="gauge", help="Tasks that the live workers have in hand.")
    busy.samples.append(("", (), sum(worker.busy for worker in alive)))
    return workers, slots, busy


def _of_files(engine: Engine) -> Iterable[_Family]:
    path = Path(engine.location)
    sizes = _Family(name="thirdshift_database_size_bytes", kind="gauge", help="Size of the database and of its log.")
    for name, file in (("database", path), ("log", path.with_name(path.name + "-wal"))):
        sizes.samples.append(("", (("file", name),), file.stat().st_size if file.exists() else 0))
    free = _Family(name="thirdshift_disk_free_bytes", kind="gauge", help="Free space on the disk of the database.")
    free.samples.append(("", (), disk_usage(path.parent).free))
    return sizes, free


def _of_alerts(engine: Engine) -> _Family:
    active = Counter(alert.kind for alert in engine.alerts(0))
    family = _Family(name="thirdshift_alerts_active", kind="gauge", help="Alerts of the monitor that have not cleared.")
    family.samples.extend(("", (("kind", kind.value),), active[kind]) for kind in AlertKind)
    return family


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
