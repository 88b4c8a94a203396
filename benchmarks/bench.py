"""What all benchmarks share: the figures of one run, how long to measure, what was skipped and why."""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

HERE = Path(__file__).parent
OURS = "thirdshift"
BARE = "bare loop"


class Skipped(Exception):
    """Cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Figure:
    """One measured thing: *samples* has one value a round, for latencies one a call."""

    case: str
    who: str
    unit: str
    samples: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        return sorted(self.samples)[int(len(self.samples) * 0.99)]


@dataclass
class Bench:
    """One run: everything in it is measured on one machine within minutes, so its figures may be divided."""

    folder: Path
    quick: bool = False
    alone: bool = False
    """Without other libraries."""
    report: Callable[[Figure], None] = lambda _: None
    figures: list[Figure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    redis: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The run's own Redis servers by durability: address and process id."""
    closing: ExitStack = field(default_factory=ExitStack)
    """What lives as long as the run, such as servers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.close()

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 5

    @property
    def seconds(self) -> float:
        """How long a rate is measured in each round."""
        return 0.1 if self.quick else 0.5

    def room(self) -> Path:
        """Return a new folder: what one case leaves behind is nothing to the next."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def add(self, case: str, who: str, unit: str, samples: Sequence[float]) -> None:
        figure = Figure(case, who, unit, samples)
        self.figures.append(figure)
        self.report(figure)

    def skip(self, what: str, reason: object) -> None:
        """Note, and say once, that *what* is not measured."""
        if what not in self.skipped:
            self.skipped[what] = str(reason)
            print(f"skipped: {what}: {reason}", file=sys.stderr)


def rate(call: Callable[[int], object], seconds: float, threads: int = 1) -> float:
    """Return how often a second *threads* threads together make *call*, each after one call that is not timed."""
    if threads == 1:
        call(0)
        started = time.perf_counter()
        return _calls(call, started + seconds) / (time.perf_counter() - started)
    counts: list[int] = []
    started = 0.0

    def begin() -> None:
        nonlocal started
        started = time.perf_counter()

    start_line = threading.Barrier(threads, action=begin)

    def work() -> None:
        try:
            call(0)
        except BaseException:
            start_line.abort()  # the others would wait for ever
            raise
        start_line.wait()
        counts.append(_calls(call, started + seconds))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(counts) == threads, "a thread failed; its traceback stands above"
    return sum(counts) / (time.perf_counter() - started)


def _calls(call: Callable[[int], object], until: float) -> int:
    count = 0
    while time.perf_counter() < until:
        call(count)
        count += 1
    return count


def fsync_rate(folder: Path, seconds: float = 0.3) -> float:
    """Return how many fsyncs of 4 KiB appends a second the disk of *folder* takes now."""
    with appending(folder) as append:
        return rate(append, seconds)


@contextlib.contextmanager
def appending(folder: Path) -> Iterator[Callable[[int], None]]:
    """Give what appends 4 KiB with an fsync to a file in *folder*, which goes after the block."""
    path = folder / "fsync-probe"
    with path.open("wb", buffering=0) as file:

        def append(_: int) -> None:
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())

        yield append
    path.unlink()


def family(root: int) -> list[int]:
    """Return the process and its descendants, the youngest first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, ())
    return found[::-1]


def child_environment() -> dict[str, str]:
    """Let child interpreters find the modules beside this file."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))}


def python(script: str, *arguments: str, interpreter: str = sys.executable, **variables: str) -> str:
    """Run *script* in a fresh interpreter and return the last line that it printed."""
    command = [interpreter, "-c", script, *arguments]
    environment = {**child_environment(), **variables}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return done.stdout.strip().splitlines()[-1]
