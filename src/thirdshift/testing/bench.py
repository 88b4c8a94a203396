"""What this machine and this disk give: a short benchmark on a store of its own, and what follows for its user.

Everything is measured by the calls that applications make, so a figure is what they would see. The longer benchmark,
beside bare loops and other libraries, is the repository's ``make bench``.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from thirdshift.host.filesystem import filesystem_type
from thirdshift.manager import BackgroundTaskManager
from thirdshift.testing.functions import echo

_THREADS = 64
_MANY = 10_000
_DRAINED = 5_000
_LATENCIES = 200
_IDLE_S = 3.0
_BLOCK = b"x" * 4096
_SLOW_SYNC_MS = 1.0
_WORTH_IT = 1.5
_QUICK_SYNC_MS = 0.02
"""No disk keeps its promise as quickly as this."""

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One thing that was measured."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All figures, and what follows from them."""

    folder: str
    file_system: str
    cpus: int
    figures: Sequence[Figure]
    verdicts: Sequence[str]


def measure(folder: Path, *, seconds: float, tell: Tell) -> Report:
    """Measure in *folder*, which is empty and on the disk in question; some *seconds* for each rate.

    *tell* is told what is measured next.
    """
    figures: dict[str, Figure] = {}

    def note(name: str, value: float, unit: str) -> None:
        figures[name] = Figure(name=name, value=value, unit=unit)

    tell("fsync")
    syncs_ms = [_sync_ms(folder / "sync") for _ in range(50)]
    note("fsync", statistics.median(syncs_ms), "ms")
    for durability in ("relaxed", "full"):
        with BackgroundTaskManager(database=folder / f"{durability}.db", durability=durability, start=False) as manager:
            tell(f"submits one by one, durability {durability}")
            note(f"submit, {durability}", _rate(lambda: manager.submit(echo, 1), seconds), "1/s")
            if durability == "full":
                tell(f"submits of {_THREADS} threads, durability full")
                note(f"submit, full, {_THREADS} threads", _rate_of_threads(manager, seconds), "1/s")
                tell(f"{_MANY:,} tasks in one submit")
                began = time.perf_counter()
                manager.submit_many(echo, [(number,) for number in range(_MANY)])
                note("submit_many, full", _MANY / (time.perf_counter() - began), "1/s")
    with BackgroundTaskManager(database=folder / "drain.db", start=False) as manager:
        manager.submit_many(echo, [(number,) for number in range(_DRAINED)])
        tell(f"{_DRAINED:,} tasks through one worker, 4 threads")
        began = time.perf_counter()
        manager.start()
        manager.wait_until_drained()
        note("tasks through a worker, full", _DRAINED / (time.perf_counter() - began), "1/s")
        tell("an idle worker")
        began_cpu_s = time.process_time()
        time.sleep(_IDLE_S)
        note("idle worker, processor", (time.process_time() - began_cpu_s) / _IDLE_S * 100, "%")
        tell("a task on its way")
        for durability in ("relaxed", "full"):
            results_ms = sorted(_round_trip_ms(manager, durability) for _ in range(_LATENCIES))
            note(f"submit to result, {durability}, half of all", results_ms[_LATENCIES // 2], "ms")
            note(f"submit to result, {durability}, 99 of 100", results_ms[_LATENCIES * 99 // 100], "ms")
    kind = filesystem_type(folder)
    verdicts = _verdicts({name: figure.value for name, figure in figures.items()}, kind)
    return Report(
        folder=str(folder),
        file_system=kind,
        cpus=os.cpu_count() or 1,
        figures=list(figures.values()),
        verdicts=verdicts,
    )


def _sync_ms(path: Path) -> float:
    """Return how long it takes until a block that was appended is on the disk, as far as the disk says."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, _BLOCK)
        began = time.perf_counter()
        os.fsync(descriptor)
        return (time.perf_counter() - began) * 1000
    finally:
        os.close(descriptor)


def _rate(call: Callable[[], object], seconds: float) -> float:
    """Return how often in a second *call* can be made, one after another."""
    call()
    began = time.perf_counter()
    for calls in count(1):
        call()
        spent_s = time.perf_counter() - began
        if spent_s >= seconds:
            return calls / spent_s
    raise AssertionError("the loop has no end of its own")


def _rate_of_threads(manager: BackgroundTaskManager, seconds: float) -> float:
    with ThreadPoolExecutor(_THREADS) as threads:
        rates = threads.map(lambda _: _rate(lambda: manager.submit(echo, 1), seconds), range(_THREADS))
    return sum(rates)


def _round_trip_ms(manager: BackgroundTaskManager, durability: str) -> float:
    began = time.perf_counter()
    manager.options(durability=durability).submit(echo, 1).result(30)
    return (time.perf_counter() - began) * 1000


def _verdicts(value: dict[str, float], file_system: str) -> list[str]:
    """Return what the figures mean for somebody who chooses options."""
    sync_ms = value["fsync"]
    shared, many = value[f"submit, full, {_THREADS} threads"], value["submit_many, full"]
    said = [_of_sync(sync_ms, value["submit, full"], file_system)]
    full, relaxed = value["submit, full"], value["submit, relaxed"]
    if relaxed > _WORTH_IT * full:
        said.append(
            f"If {full:,.0f} submits a second, one after another, are too few: submits of several threads share a sync "
            f"({shared:,.0f}/s with {_THREADS}); submit_many, manager.batch() and manager.transaction() need one for "
            f"all ({many:,.0f}/s); durability='relaxed' needs none ({relaxed:,.0f}/s): it survives kill -9, and power "
            "loss may take the last moments."
        )
    else:
        said.append("durability='relaxed' would gain little here: leave it at 'full'.")
    through = value["tasks through a worker, full"]
    said.append(
        f"One worker with 4 threads ends {through:,.0f} tasks a second that do nothing. Work that takes less than "
        f"{4000 / through:.2f} ms a piece is worth doing in larger pieces; for work in Python that computes, use "
        "pool='process'."
    )
    return said


def _of_sync(sync_ms: float, rate: float, file_system: str) -> str:
    if sync_ms < _QUICK_SYNC_MS:
        return (
            f"A sync takes {sync_ms * 1000:.0f} µs: no disk is that quick, so this one ({file_system}) answers before "
            "the data is safe, as file systems in memory and some virtual machines do. 'full' is as safe as that here."
        )
    words = f"A sync takes {sync_ms:.2f} ms on this disk ({file_system})"
    if sync_ms < _SLOW_SYNC_MS:
        return f"{words}: that is quick. durability='full', the default, is the right choice ({rate:,.0f} submits/s)."
    return f"{words}, which bounds what one submit after another with durability='full' can do ({rate:,.0f}/s)."
