"""Victims of a fault, from the side of the harness: make one, read what it was told, judge what it left."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thirdshift.testing.torture.checker import Violation, calls_of, judge_end, judge_promises, look
from thirdshift.testing.torture.program import Program
from thirdshift.testing.torture.workload import FILE_NAME, go_on


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is done to one victim. Sizes are in bytes; ``None``: no such limit."""

    folder: str
    fault: str | None = None
    strace: tuple[str, ...] = ()
    """Options of the strace that is attached to it."""
    memory_bytes: int | None = None
    """Address space beyond what the process has when it begins."""
    heap_bytes: int | None = None
    """What SQLite may allocate."""
    file_bytes: int | None = None
    """The longest file that it may write."""
    mount_bytes: int | None = None
    """The size of the file system in *folder*, which grows when the victim asks for room."""
    probes: bool = False
    """At its end it gets room again, and submits one more task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tale:
    """What one victim was told until its end."""

    lines: list[dict[str, Any]]
    status: int
    """Its exit code; negative: the signal that ended it."""


class Victims(Program):
    """The program that forks them; one at a time."""

    def __init__(self) -> None:
        super().__init__("thirdshift.testing.torture.victim")

    def make(self, case: Case) -> Tale:
        """Make one victim and wait for its end."""
        return Tale(**self.ask(asdict(case)))


def judge(tale: Tale, folder: Path, *, may_die: bool = False) -> list[Violation]:
    """Judge what the victim left in *folder* by what it was told; then the next worker must be able to go on.

    *may_die*: the fault may end the process, as long as nothing is lost.
    """
    found = [Violation("error", f"{line['wrong']}\n{line['where']}") for line in tale.lines if "wrong" in line]
    if tale.status and not may_die:
        found.append(Violation("error", f"the process ended with {tale.status}"))
    path = folder / FILE_NAME
    if not path.exists():
        told = [call for call in calls_of(tale.lines) if call.what != "open" and call.answer == "done"]
        return [*found, *(Violation("I1", f"there is no file, and {call} was acknowledged") for call in told[:1])]
    snapshot, wrong = look(path)
    found += wrong
    if snapshot is None:
        return found
    found += judge_promises(calls_of(tale.lines), snapshot)
    try:
        go_on(path)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
        return [*found, Violation("I19", f"the next worker cannot go on: {error!r}")]
    return found + judge_end(path, snapshot)
