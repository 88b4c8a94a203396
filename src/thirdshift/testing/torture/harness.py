"""What every harness is: cases by number, each judged, and planted faults that it must find."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from thirdshift.testing.torture.checker import Violation


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What one case has shown."""

    figures: Mapping[str, int] = field(default_factory=dict)
    """What it adds to the harness's figures: seeds, crash points, images …"""
    violations: Sequence[Violation] = ()
    story: Sequence[Any] = ()
    """What happened, line by line, for who looks at this case alone."""


class Broken(AssertionError):
    """A promise is broken; says which."""


def demand(is_kept: object, promise: str) -> None:
    """Raise :class:`Broken` unless *is_kept*."""
    if not is_kept:
        raise Broken(promise)


class Bench(Protocol):
    """A harness that is set up for one seed, and for one planted fault or none."""

    @property
    def cases(self) -> int | None:
        """Return how many cases there are; ``None``: as many as anybody wants."""

    def judge(self, number: int) -> Verdict:
        """Make case *number*, from 0, and judge it. The same seed and number make the same case."""


class Harness(Protocol):
    """One way to break things."""

    @property
    def name(self) -> str:
        """Return its name in the command."""

    @property
    def what(self) -> str:
        """Return what it does, in one sentence."""

    @property
    def controls(self) -> Mapping[str, int]:
        """Return the planted faults that it must find, and in how many cases at most."""

    def why_not(self) -> str | None:
        """Return why it cannot work on this machine; ``None`` when it can."""

    def open(self, folder: Path, kept: Path, seed: int, fault: str | None = None) -> AbstractContextManager[Bench]:
        """Set it up in *folder*, which is empty and goes afterwards. What shall be looked at later is put in *kept*."""


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Give a folder that lies in memory where that is possible: what is tested here does not depend on the disk."""
    memory = Path("/dev/shm")  # noqa: S108  # a private folder is made inside
    with tempfile.TemporaryDirectory(
        prefix="thirdshift-torture-", dir=memory if os.access(memory, os.W_OK) else None
    ) as folder:
        yield Path(folder)


def first_violation(harness: Harness, fault: str, seed: int) -> tuple[int, Verdict] | None:
    """Return the first case that finds the planted *fault* and its verdict; ``None`` when none does."""
    with folder_in_memory() as folder:
        work, kept = folder / "work", folder / "kept"
        work.mkdir()
        with harness.open(work, kept, seed, fault) as bench:
            most = harness.controls[fault] if bench.cases is None else min(bench.cases, harness.controls[fault])
            verdicts = ((number, bench.judge(number)) for number in range(most))
            return next((found for found in verdicts if found[1].violations), None)
