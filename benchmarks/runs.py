"""Running tasks: the drain of a full queue, the latency of an idle worker, and what an idle worker costs."""

import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from bare import BareLoop
from bench import BARE, OURS, Bench, appending, family, rate
from peers import DURABILITIES, Side, Thirdshift, sides

DRAIN = "drain {}, 4 threads"
FSYNC = "one fsync, after a rest"
COMMIT = "submit {}, during the latencies"
START = "submit to start, {}, {} process"
RESULT = "submit to result, {}, {} process"
IDLE_CPU = "idle worker, CPU"
IDLE_MEMORY = "idle worker, memory (Pss)"
_IDLE_RSS = "idle worker, memory (Rss)"
_GAP_S = 0.02


def drain(bench: Bench) -> None:
    """No-op tasks through one worker with four threads, results stored; new files in every round."""
    for durability in reversed(DURABILITIES):
        case = DRAIN.format(durability)
        samples: dict[str, list[float]] = defaultdict(list)
        for _ in range(bench.rounds):
            samples[BARE].append(_bare_drain(bench, durability))
            with sides(bench, durability) as found:
                for side in found:
                    samples[side.who].append(side.drain(side.drain_count // _less(bench)))
        for who, rates in samples.items():
            bench.add(case, who, "tasks/s", rates)


def latency(bench: Bench) -> None:
    """From submit to the body's start, and to the result at the submitter; the workers are idle, tasks 20 ms apart."""
    fsyncs: list[float] = []
    commits: dict[str, list[float]] = defaultdict(list)
    for durability in DURABILITIES:
        starts: dict[tuple[str, str], list[float]] = defaultdict(list)
        results: dict[tuple[str, str], list[float]] = defaultdict(list)
        with sides(bench, durability) as found, ExitStack() as closing:
            ours_here = Thirdshift(bench.room(), durability, start=True)
            closing.callback(ours_here.close)
            bare = BareLoop(bench.room(), durability)
            closing.callback(bare.close)
            everybody: list[tuple[str, Side]] = [("same", ours_here)]
            everybody += [("other" if closing.enter_context(side.worker()) else "same", side) for side in found]
            for _, side in everybody:
                side.call()  # so that its worker is up
            for _ in range(bench.rounds):
                fsyncs += _fsyncs_ms(bench.folder, 20)
                commits[durability].append(rate(bare.submit, 0.05))
                for place, side in everybody:
                    for _ in range(10 if bench.quick else 60 if side.who == OURS else 30):
                        time.sleep(_GAP_S)
                        began = time.monotonic()
                        started = side.call()
                        results[side.who, place].append((time.monotonic() - began) * 1000)
                        starts[side.who, place].append((started - began) * 1000)
        for case, times in ((START, starts), (RESULT, results)):
            for (who, place), samples in times.items():
                bench.add(case.format(durability, place), who, "ms", samples)
        bench.add(COMMIT.format(durability), BARE, "tasks/s", commits[durability])
    bench.add(FSYNC, "disk", "ms", fsyncs)


def _fsyncs_ms(folder: Path, count: int) -> list[float]:
    """Return what an append of 4 KiB with an fsync takes when it comes, like a task, after a rest: twice as long."""
    found = []
    with appending(folder) as append:
        for number in range(count):
            time.sleep(_GAP_S)
            began = time.monotonic()
            append(number)
            found.append((time.monotonic() - began) * 1000)
    return found


def idle(bench: Bench) -> None:
    """Memory of workers with nothing to do, one at a time; their CPU time, all at once; Redis is counted for itself."""
    if sys.platform != "linux":
        bench.skip("idle workers", f"the kernel of {sys.platform} does not tell their CPU time and memory in /proc")
        return
    window_s = 2.0 if bench.quick else 30.0 / bench.rounds
    used: dict[str, list[float]] = defaultdict(list)
    with sides(bench, "full") as found, ExitStack() as closing:
        for side in found:
            _memory(bench, side)  # one at a time: pages that two workers share would count half
        pids = {}
        for side in found:
            pids[side.who] = _pid_of(closing.enter_context(side.worker()))
            side.call()
        if "full" in bench.redis:
            pids["redis-server appendfsync always"] = bench.redis["full"][1]
        time.sleep(2)
        for _ in range(bench.rounds):
            before = {who: _cpu_s(pid) for who, pid in pids.items()}
            time.sleep(window_s)
            for who, pid in pids.items():
                used[who].append((_cpu_s(pid) - before[who]) * 30 / window_s)
    for who, seconds in used.items():
        bench.add(IDLE_CPU, who, "s per 30 s", seconds)


def _memory(bench: Bench, side: Side) -> None:
    pss, rss = [], []
    for _ in range(1 if bench.quick else 3):
        with side.worker() as worker:
            side.call()
            time.sleep(1)
            pid = _pid_of(worker)
            pss.append(_memory_mib(pid, "Pss"))
            rss.append(_memory_mib(pid, "Rss"))
    bench.add(IDLE_MEMORY, side.who, "MiB", pss)
    bench.add(_IDLE_RSS, side.who, "MiB", rss)


def _less(bench: Bench) -> int:
    return 5 if bench.quick else 1


def _bare_drain(bench: Bench, durability: str) -> float:
    bare, count = BareLoop(bench.room(), durability), Thirdshift.drain_count // _less(bench)
    bare.submit_many(count)
    started = time.perf_counter()
    bare.drain()
    took = time.perf_counter() - started
    bare.close()
    return count / took


def _cpu_s(pid: int) -> float:
    """Return the CPU time of the process and its children, from the scheduler; its clock ticks are too coarse."""
    tasks = [task for each in family(pid) for task in Path(f"/proc/{each}/task").glob("*/schedstat")]
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _memory_mib(pid: int, kind: str) -> float:
    """Return the memory of the process and its children."""
    maps = [Path(f"/proc/{each}/smaps_rollup").read_text().splitlines() for each in family(pid)]
    return sum(int(next(line for line in lines if line.startswith(f"{kind}:")).split()[1]) for lines in maps) / 1024


def _pid_of(worker: int | None) -> int:
    assert worker is not None, "every side but the thread pool works in a process of its own"
    return worker
