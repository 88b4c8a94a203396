"""Submitting: one by one from one thread and from 64, both durabilities, on this disk and on a slow one; and in bulk.

As a program it is the child process on the slow disk: it prints its figures and what it skipped as JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import slow_disk
from bare import BareLoop
from bench import BARE, HERE, OURS, Bench, Figure, Skipped, child_environment, rate
from peers import DURABILITIES, Thirdshift, producers

SLOW = f", fsync + {slow_disk.DELAY_MS} ms"
_THREADS = (1, 64)


def name(durability: str, threads: int, disk: str = "") -> str:
    """Return the name of a case."""
    return f"submit {durability}, {threads} thread{'s' if threads > 1 else ''}{disk}"


def submit(bench: Bench, disk: str = "") -> None:
    """Everybody submits one by one, no worker running; the sides take turns in every round."""
    for durability in DURABILITIES:
        samples: dict[tuple[int, str], list[float]] = defaultdict(list)
        with producers(bench, durability) as sides:
            for _ in range(bench.rounds):
                for threads in _THREADS:
                    for side in sides:
                        if threads == 1 or side.who != BARE:  # a bare loop has one connection
                            samples[threads, side.who].append(rate(side.submit, bench.seconds, threads))
        for threads in _THREADS:
            for who in [side.who for side in sides if (threads, side.who) in samples]:
                bench.add(name(durability, threads, disk), who, "tasks/s", samples[threads, who])


def submit_slow(bench: Bench) -> None:
    """The same in a child process in which an fsync takes two milliseconds more."""
    try:
        environment = slow_disk.environment(bench.folder)
    except Skipped as reason:
        bench.skip(f"submit{SLOW}", reason)
        return
    command = [sys.executable, str(HERE / "submits.py"), str(bench.room())]
    command += ["--quick"] * bench.quick + ["--alone"] * bench.alone
    done = subprocess.run(
        command, env={**child_environment(), **environment}, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout)
    figures = [Figure(**figure) for figure in found["figures"]]
    commits = next(f.median for f in figures if (f.case, f.who) == (name("full", 1, SLOW), BARE))
    if commits > 1000 / slow_disk.DELAY_MS:
        bench.skip(f"submit{SLOW}", f"the shim is without effect: {commits:.0f} commits/s")
        return
    bench.skipped.update({what: reason for what, reason in found["skipped"].items() if what not in bench.skipped})
    for figure in figures:
        bench.add(**asdict(figure))


def submit_many(bench: Bench) -> None:
    """One commit for many tasks. huey and Celery have no such call: their rate is that of one by one."""
    count = 5_000 if bench.quick else 50_000
    bare, ours = BareLoop(bench.room(), "full"), Thirdshift(bench.room(), "full")
    samples: dict[str, list[float]] = {OURS: [], BARE: []}
    for _ in range(bench.rounds):
        for side in (bare, ours):
            started = time.perf_counter()
            side.submit_many(count)
            samples[side.who].append(count / (time.perf_counter() - started))
        bare.checkpoint()
    ours.close()
    bare.close()
    for who, rates in samples.items():
        bench.add("submit_many full", who, "tasks/s", rates)


def main() -> None:
    """Be the child on the slow disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--alone", action="store_true")
    with Bench(**vars(parser.parse_args())) as bench:
        submit(bench, SLOW)
    print(json.dumps({"figures": [asdict(figure) for figure in bench.figures], "skipped": bench.skipped}))


if __name__ == "__main__":
    main()
