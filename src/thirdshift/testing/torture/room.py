"""No room: file systems of every size, files of every length, no memory. What was refused works again with room.

A small file system is a tmpfs, which only root may mount; elsewhere the longest file that the process may write is
limited (``RLIMIT_FSIZE``), and the report says so. The memory is limited twice: the process's address space
(``RLIMIT_AS``), which fails wherever Python or the system next needs some, and what SQLite may allocate
(``hard_heap_limit``), which fails inside SQLite.
"""

import os
import random
import resource
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from thirdshift.testing.torture import workload
from thirdshift.testing.torture.checker import Violation, calls_of
from thirdshift.testing.torture.harness import Verdict
from thirdshift.testing.torture.victims import Case, Tale, Victims, judge

_PAGE_BYTES = resource.getpagesize()
_MOST_PAGES = 420
"""More than a victim needs."""
_FEWEST_PAGES = 4


@cache
def can_mount() -> bool:
    """Return whether this process may mount a small file system."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_filesystem(Path(folder), 16 * _PAGE_BYTES):
                return True
        except subprocess.CalledProcessError:
            return False


@contextmanager
def small_filesystem(folder: Path, size_bytes: int) -> Iterator[None]:
    """Mount a file system of that size in *folder* while the block runs."""
    options = f"size={size_bytes},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)  # noqa: S607
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)  # noqa: S607


def make_room(folder: Path) -> None:
    """Give the small file system in *folder* far more room."""
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True, capture_output=True)  # noqa: S607


class DiskFull:
    """Every size of a small disk; one size is one case."""

    name = "disk-full"
    controls: Mapping[str, int] = dict.fromkeys(workload.FAULTS, _MOST_PAGES)

    @property
    def what(self) -> str:
        """Return what it does here."""
        how = "a file system" if can_mount() else "the longest file that may be written (nothing may be mounted here)"
        return f"a full disk at every size of {how}, page by page; with room again, work goes on"

    def why_not(self) -> str | None:
        """Return nothing: there is a way everywhere."""
        return None

    @contextmanager
    def open(self, folder: Path, kept: Path, seed: int, fault: str | None = None) -> Iterator["Sizes"]:
        """Make the victims' program; the seed draws the order of the sizes."""
        pages = list(range(_FEWEST_PAGES, _MOST_PAGES))
        random.Random(seed).shuffle(pages)
        cases = [_FullDisk(size) if can_mount() else _LongestFile(size) for size in pages]
        with Victims() as victims:
            yield Sizes(victims, folder, kept, cases, fault, "sizes of a disk")


class Memory:
    """No memory; one limit is one case."""

    name = "memory"
    what = "a limit of the address space, or of what SQLite may allocate, at every size"
    controls: Mapping[str, int] = {workload.EARLY: 100}

    def why_not(self) -> str | None:
        """Return nothing: it works everywhere."""
        return None

    @contextmanager
    def open(self, folder: Path, kept: Path, seed: int, fault: str | None = None) -> Iterator["Sizes"]:
        """Make the victims' program; the seed draws the order of the limits."""
        cases: list[_Room] = [_Heap(size) for size in range(16 * 1024, 1_200 * 1024, 2 * 1024)]
        cases += [_AddressSpace(size) for size in range(0, 24 * 1024 * 1024, 32 * 1024)]
        random.Random(seed).shuffle(cases)
        with Victims() as victims:
            yield Sizes(victims, folder, kept, cases, fault, "limits of memory")


class _Room(ABC):
    """How much room one victim has."""

    may_die = False
    """Whether the limit may end the process: what was promised holds all the same."""

    def __init__(self, size: int) -> None:
        self.size = size

    def make(self, victims: Victims, folder: Path, kept: Path, fault: str | None) -> tuple[Tale, list[Violation]]:
        """Make a victim and judge it; what has lost something is copied to *kept*."""
        tale = victims.make(self.case(folder, fault))
        return tale, self.judge(tale, folder, kept)

    def judge(self, tale: Tale, folder: Path, kept: Path) -> list[Violation]:
        """Judge what the victim has left."""
        found = [*judge(tale, folder, may_die=self.may_die), *self.judge_after(tale)]
        if found:
            shutil.copytree(folder, kept, dirs_exist_ok=True)
        return found

    @abstractmethod
    def case(self, folder: Path, fault: str | None) -> Case:
        """Return what is done to the victim."""

    def judge_after(self, tale: Tale) -> Iterator[Violation]:  # noqa: ARG002  # where nothing is promised
        """Judge what it did when it had room again."""
        yield from ()


class _Disk(_Room):
    def judge_after(self, tale: Tale) -> Iterator[Violation]:
        """With room again the same engine goes on, unless it had to stop for a commit of unknown outcome."""
        begun = [number for number, line in enumerate(tale.lines) if "has" in line]
        if not begun or any(line.get("how") == "unknown" for line in tale.lines):
            return
        later = calls_of(tale.lines[begun[0] :])
        if not any(call.what == "submit" and call.answer == "done" for call in later):
            yield Violation("I1", f"there is room again, and a submit is not taken: {later}")


class _FullDisk(_Disk):
    def __str__(self) -> str:
        return f"a file system of {self.size} pages"

    def make(self, victims: Victims, folder: Path, kept: Path, fault: str | None) -> tuple[Tale, list[Violation]]:
        with small_filesystem(folder, self.size * _PAGE_BYTES):
            tale = victims.make(self.case(folder, fault))
            make_room(folder)  # for who goes on after one that died
            return tale, self.judge(tale, folder, kept)

    def case(self, folder: Path, fault: str | None) -> Case:
        return Case(folder=str(folder), fault=fault, mount_bytes=self.size * _PAGE_BYTES, probes=True)


class _LongestFile(_Disk):
    def __str__(self) -> str:
        return f"no file longer than {self.size} pages"

    def case(self, folder: Path, fault: str | None) -> Case:
        return Case(folder=str(folder), fault=fault, file_bytes=self.size * _PAGE_BYTES, probes=True)


class _AddressSpace(_Room):
    may_die = True

    def __str__(self) -> str:
        return f"{self.size} more bytes of address space"

    def case(self, folder: Path, fault: str | None) -> Case:
        return Case(folder=str(folder), fault=fault, memory_bytes=self.size)


class _Heap(_Room):
    def __str__(self) -> str:
        return f"{self.size} bytes for SQLite"

    def case(self, folder: Path, fault: str | None) -> Case:
        return Case(folder=str(folder), fault=fault, heap_bytes=self.size)


class Sizes:
    """All sizes, in the drawn order."""

    def __init__(
        self, victims: Victims, folder: Path, kept: Path, rooms: Sequence[_Room], fault: str | None, unit: str
    ) -> None:
        self._victims = victims
        self._folder = folder / "victim"
        self._kept = kept
        self._rooms = rooms
        self._fault = fault
        self._unit = unit

    @property
    def cases(self) -> int:
        """Return how many there are."""
        return len(self._rooms)

    def judge(self, number: int) -> Verdict:
        """Make one victim with so little room."""
        room = self._rooms[number]
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        tale, found = room.make(self._victims, self._folder, self._kept / str(number), self._fault)
        told = [line.get("how") for line in tale.lines]
        failed = int(tale.status != 0 or "refused" in told or "unknown" in told)
        return Verdict(
            figures={self._unit: 1, "with an error for the caller": failed},
            violations=found,
            story=[str(room), *tale.lines],
        )
