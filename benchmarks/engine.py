"""``make bench``: the engine beside the bare loops, interleaved in one run; medians and ratios, never absolute claims.

python benchmarks/engine.py                 everything, a few minutes
python benchmarks/engine.py --quick submit  the named cases, short
"""

import argparse
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bare import fsync_rate, noop, open_bare

from thirdshift import BackgroundTaskManager

ROUNDS = 5
Rows = list[dict[str, object]]


@contextmanager
def manager_at(folder: Path, name: str, **options: object) -> Iterator[BackgroundTaskManager]:
    settings: dict[str, object] = {"start": False, **options}
    with BackgroundTaskManager(database=folder / f"{name}.db", **settings) as manager:  # type: ignore[arg-type]
        yield manager


def submit_one_by_one(folder: Path, quick: bool) -> Rows:
    """One producer, one commit a task, beside the bare loop."""
    rows: Rows = []
    for durability, most in (("relaxed", 3000), ("full", 600)):
        count = most // 5 if quick else most
        bare = open_bare(folder, f"one-{durability}", durability)
        with manager_at(folder, f"one-{durability}", durability=durability) as manager:
            ours, theirs = [], []
            for _ in range(ROUNDS):
                theirs.append(bare.submit(count))
                ours.append(_submit(manager, count))
        bare.close()
        rows.append(_row(f"submit {durability}, 1 thread", ours, theirs, "tasks/s"))
    return rows


def submit_from_threads(folder: Path, quick: bool) -> Rows:
    """64 producers share commits; beside one producer."""
    rows: Rows = []
    for durability in ("full", "relaxed"):
        with manager_at(folder, f"threads-{durability}", durability=durability) as manager:
            one, many = [], []
            for _ in range(ROUNDS):
                one.append(_submit(manager, 60 if quick else 300))
                many.append(_in_threads(64, 10 if quick else 60, lambda count: _submit(manager, count)))
        rows.append(_row(f"submit {durability}, 64 threads (beside 1 thread)", many, one, "tasks/s"))
    return rows


def submit_many(folder: Path, quick: bool) -> Rows:
    """One commit for many tasks, beside the bare loop."""
    count = 5_000 if quick else 50_000
    bare = open_bare(folder, "many", "full")
    ours, theirs = [], []
    with manager_at(folder, "many") as manager:
        for _ in range(ROUNDS):
            theirs.append(bare.submit_many(count))
            arguments = [(number,) for number in range(count)]
            started = time.perf_counter()
            manager.submit_many(noop, arguments)
            ours.append(count / (time.perf_counter() - started))
            bare.checkpoint()
    bare.close()
    return [_row("submit_many full", ours, theirs, "tasks/s")]


def drain(folder: Path, quick: bool) -> Rows:
    """No-op tasks through one worker process with four threads, results stored, from worker start to the last row."""
    count = 4_000 if quick else 20_000
    rates = []
    for number in range(3 if quick else ROUNDS):
        name = f"drain-{number}"
        with manager_at(folder, name) as manager:
            manager.submit_many(noop, [(each,) for each in range(count)])
        script = (
            "import sys, time; from thirdshift import BackgroundTaskManager as M\n"
            "started = time.perf_counter()\n"
            "with M(database=sys.argv[1]) as manager: manager.shutdown(drain=True)\n"
            "print(time.perf_counter() - started)"
        )
        rates.append(count / float(_python(script, str(folder / f"{name}.db"))))
    return [_row("drain, 4 threads, full", rates, None, "tasks/s")]


def latency(folder: Path, quick: bool) -> Rows:
    """Submit to start and submit to result, an idle worker in the same process."""
    count = 50 if quick else 300
    rows: Rows = []
    for durability in ("relaxed", "full"):
        starts, results = [], []
        with manager_at(folder, f"latency-{durability}", durability=durability, start=True) as manager:
            for _ in range(count):
                began = time.time()
                handle = manager.submit(noop, 1)
                task = handle.wait(10)
                results.append(time.time() - began)
                starts.append(task.attempts[0].started_at.timestamp() - began)  # type: ignore[union-attr]
                time.sleep(0.005)
        rows += [
            _milliseconds(f"submit to start, same process, {durability}", starts),
            _milliseconds(f"submit to result, same process, {durability}", results),
        ]
    return rows


def latency_across(folder: Path, quick: bool) -> Rows:
    """Submit to start, the worker in another process."""
    database = str(folder / "across.db")
    script = (
        "import sys, time; from thirdshift import BackgroundTaskManager as M\n"
        "with M(database=sys.argv[1]) as manager: print('ready', flush=True); sys.stdin.read()"
    )
    starts = []
    with manager_at(folder, "across", durability="relaxed") as manager:
        worker = subprocess.Popen(
            [sys.executable, "-c", script, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
        )
        assert worker.stdout is not None
        worker.stdout.readline()
        for _ in range(50 if quick else 300):
            began = time.time()
            task = manager.submit(noop, 1).wait(10)
            starts.append(task.attempts[0].started_at.timestamp() - began)  # type: ignore[union-attr]
            time.sleep(0.005)
        worker.communicate()
    return [_milliseconds("submit to start, other process, relaxed", starts)]


def idle(folder: Path, quick: bool) -> Rows:
    """CPU and memory of a worker with nothing to do."""
    seconds = 5 if quick else 30
    script = (
        "import resource, sys, time; from thirdshift import BackgroundTaskManager as M\n"
        "def cpu(): u = resource.getrusage(resource.RUSAGE_SELF); return u.ru_utime + u.ru_stime\n"
        "with M(database=sys.argv[1]) as manager:\n"
        "    time.sleep(1); before = cpu(); time.sleep(float(sys.argv[2])); used = cpu() - before\n"
        "    pss = sum(int(l.split()[1]) for l in open('/proc/self/smaps_rollup') if l.startswith('Pss:'))\n"
        "    print(used, pss)"
    )
    used, pss = _python(script, str(folder / "idle.db"), str(seconds)).split()
    return [
        {"case": "idle worker, CPU", "median": round(float(used) * 30 / seconds, 4), "unit": "s per 30 s"},
        {"case": "idle worker, memory (PSS)", "median": round(int(pss) / 1024, 1), "unit": "MiB"},
    ]


def claim_cost(folder: Path, quick: bool) -> Rows:
    """A claim with a mountain in the store, beside one with a thousand tasks."""
    from claims import measure  # noqa: PLC0415

    return measure(folder, 20_000 if quick else 1_000_000)


def import_time(_folder: Path, quick: bool) -> Rows:
    """``import thirdshift`` in a fresh interpreter, beside an empty one."""
    script = "import time; t = time.perf_counter(); import thirdshift; print(time.perf_counter() - t)"
    times = [float(_python(script)) * 1000 for _ in range(5 if quick else 15)]
    return [{"case": "import thirdshift", "median": round(statistics.median(times), 1), "unit": "ms"}]


def peers(folder: Path, quick: bool) -> Rows:
    """Other libraries beside us."""
    from peers import measure  # noqa: PLC0415

    return measure(folder, quick)


CASES: dict[str, Callable[[Path, bool], Rows]] = {
    "submit": submit_one_by_one,
    "threads": submit_from_threads,
    "many": submit_many,
    "drain": drain,
    "latency": latency,
    "across": latency_across,
    "idle": idle,
    "claim": claim_cost,
    "import": import_time,
    "peers": peers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"any of {', '.join(CASES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; for a first look")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    figures: Rows = []
    with tempfile.TemporaryDirectory(prefix="thirdshift-bench-") as name:
        folder = Path(name)
        machine = (
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, "
            f"SQLite {sqlite3.sqlite_version}, {fsync_rate(folder):,.0f} fsync/s"
        )
        print(machine, file=sys.stderr)
        for case in options.cases or CASES:
            found = CASES[case](folder, options.quick)
            figures += found
            for row in found:
                print(_line(row), file=sys.stderr)
    if options.json:
        print(json.dumps({"machine": machine, "figures": figures}, indent=1))


def _submit(manager: BackgroundTaskManager, count: int) -> float:
    started = time.perf_counter()
    for number in range(count):
        manager.submit(noop, number)
    return count / (time.perf_counter() - started)


def _in_threads(threads: int, each: int, work: Callable[[int], object]) -> float:
    started = time.perf_counter()
    workers = [threading.Thread(target=work, args=(each,)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return threads * each / (time.perf_counter() - started)


def _row(case: str, ours: list[float], theirs: list[float] | None, unit: str) -> dict[str, object]:
    row: dict[str, object] = {
        "case": case,
        "median": round(statistics.median(ours)),
        "lowest": round(min(ours)),
        "highest": round(max(ours)),
        "unit": unit,
    }
    if theirs is not None:
        row["beside"] = round(statistics.median(theirs))
        row["ratio"] = round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2)
    return row


def _milliseconds(case: str, seconds: list[float]) -> dict[str, object]:
    ordered = sorted(seconds)
    return {
        "case": case,
        "median": round(ordered[len(ordered) // 2] * 1000, 3),
        "p99": round(ordered[int(len(ordered) * 0.99)] * 1000, 3),
        "unit": "ms",
    }


def _line(row: dict[str, object]) -> str:
    extra = ", ".join(f"{name} {value}" for name, value in row.items() if name not in ("case", "median", "unit"))
    return f"{row['case']:<48} {row['median']:>10} {row['unit']}" + (f"   ({extra})" if extra else "")


def _python(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True, env=_environment()
    )
    return done.stdout.strip().splitlines()[-1]


def _environment() -> dict[str, str]:
    """Let child interpreters find the task functions beside this file."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
