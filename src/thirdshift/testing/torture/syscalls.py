"""Each system call that writes, syncs, opens or renames fails: once, or from then on.

``strace`` is attached to the only thread of the victim that works and answers call number N in the kernel's place.
First one victim is only counted; then every call of it is a case, with each error that the kernel may give there.
"""

import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from thirdshift.testing.torture import workload
from thirdshift.testing.torture.harness import Verdict
from thirdshift.testing.torture.victims import Case, Victims, judge

ERRORS: Mapping[str, Sequence[str]] = {
    "write": ("EIO", "ENOSPC", "EINTR"),
    "pwrite64": ("EIO", "ENOSPC", "EINTR"),
    "ftruncate": ("EIO", "ENOSPC"),
    "fsync": ("EIO", "ENOSPC", "EINTR"),
    "fdatasync": ("EIO", "ENOSPC", "EINTR"),
    "rename": ("EIO", "ENOSPC"),
    "unlink": ("EIO",),
    "openat": ("EMFILE", "EIO", "ENOSPC", "EINTR"),
}
"""What is broken, and how."""
_ONLY_ONCE = ("EINTR",)
"""Who is interrupted tries again, for ever if need be."""


def why_no_strace() -> str | None:
    """Return why no process can be traced on this machine; ``None`` when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)  # noqa: S607
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()}"


class Injection(NamedTuple):
    """One failing call."""

    call: str
    number: int
    error: str
    is_lasting: bool
    """Every later call fails too."""

    def __str__(self) -> str:
        return f"{self.call} number {self.number}{' and later ones' * self.is_lasting}: {self.error}"

    @property
    def options(self) -> tuple[str, ...]:
        """Return what strace needs to be told."""
        when = f"{self.number}{'+' * self.is_lasting}"
        return (
            "-o",
            "/dev/null",
            "-e",
            f"trace={self.call}",
            "-e",
            f"inject={self.call}:error={self.error}:when={when}",
        )


class Syscalls:
    """Failing system calls; one injection is one case."""

    name = "syscalls"
    what = "each system call that writes, syncs, opens or renames fails once, or from then on"
    controls: Mapping[str, int] = dict.fromkeys(workload.FAULTS, 60)

    def why_not(self) -> str | None:
        """Return why nothing can be injected here."""
        return why_no_strace()

    @contextmanager
    def open(self, folder: Path, kept: Path, seed: int, fault: str | None = None) -> Iterator["Injections"]:
        """Count the calls of one victim; the seed draws the order in which they fail."""
        with Victims() as victims:
            yield Injections(victims, folder, kept, seed, fault)


class Injections:
    """All failing calls of one workload."""

    def __init__(self, victims: Victims, folder: Path, kept: Path, seed: int, fault: str | None) -> None:
        self._victims = victims
        self._folder = folder / "victim"
        self._kept = kept
        self._fault = fault
        self._all = [
            Injection(call, number, error, is_lasting)
            for call, count in self._count(folder / "trace").items()
            for number in range(1, count + 1)
            for error in ERRORS[call]
            for is_lasting in ((False,) if error in _ONLY_ONCE else (False, True))
        ]
        random.Random(seed).shuffle(self._all)  # so that an early end has met calls of every kind

    @property
    def cases(self) -> int:
        """Return how many there are."""
        return len(self._all)

    def judge(self, number: int) -> Verdict:
        """Let call *number* of the drawn order fail."""
        injection = self._all[number]
        folder = self._folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        tale = self._victims.make(Case(folder=str(folder), fault=self._fault, strace=injection.options))
        told = [line.get("how") for line in tale.lines if "how" in line]
        found = judge(tale, folder)
        if found:
            shutil.copytree(folder, self._kept / str(number), dirs_exist_ok=True)
        failed = int("refused" in told or "unknown" in told)
        return Verdict(
            figures={"syscalls": 1, "with an error for the caller": failed},
            violations=found,
            story=[str(injection), *tale.lines],
        )

    def _count(self, trace: Path) -> Mapping[str, int]:
        """Return how often a victim makes each call when all is well."""
        self._folder.mkdir()
        options = ("-o", str(trace), "-e", f"trace={','.join(ERRORS)}")
        self._victims.make(Case(folder=str(self._folder), strace=options))
        counts = Counter(line.partition("(")[0] for line in trace.read_text(errors="replace").splitlines())
        return {call: counts[call] for call in ERRORS}
