"""``make faults``: what faults do to us and to other libraries at their safest documented settings, side by side.

python benchmarks/faults.py                   every fault, about ten minutes
python benchmarks/faults.py kills --only rq   one fault, one library and ourselves

Each side has a room of its own, with a Redis server or a file of its own, and each task writes into a log that it
starts and that it ends: that log is the judge. Exit code 1 when a fault has cost us a task, or run one twice whose
process had not died.
"""

import argparse
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fault_cases as cases
from bench import Skipped
from fault_cases import Finding
from fault_peers import OURS, Side, side
from report import line_of_machine, machine

_AT_ONCE = 3


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault, and whom it concerns beside ourselves."""

    what: str
    do: Callable[[Side], Finding]
    peers: tuple[str, ...]


_ALL = ("celery", "dramatiq", "huey", "rq")
FAULTS = {
    "receipt": Fault(what="killed where a task comes in", do=cases.kill_at_receipt, peers=("celery",)),
    "kills": Fault(what="12 kills at random", do=cases.random_kills, peers=_ALL),
    "poison": Fault(what="tasks that kill their process", do=cases.poison, peers=_ALL),
    "stopped": Fault(what="worker stopped, then killed", do=cases.stopped_worker, peers=_ALL),
    "forks": Fault(what="tasks that fork", do=partial(cases.forks, kind="fork"), peers=("huey",)),
    "fork-submits": Fault(what="forked children that submit", do=cases.forks, peers=("huey",)),
    "checkpoint": Fault(what="WAL reset during a checkpoint", do=cases.overtaken_checkpoint, peers=("huey",)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"any of {', '.join(FAULTS)}; default: all")
    parser.add_argument("--only", action="append", metavar="WHO", help="these libraries beside ourselves")
    options = parser.parse_args()
    if unknown := set(options.faults) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    rows: list[str] = []
    is_sound = True
    settings: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="thirdshift-faults-") as name:
        print(line_of_machine(machine(Path(name))), file=sys.stderr)
        for fault in options.faults or FAULTS:
            peers = [who for who in FAULTS[fault].peers if options.only is None or who in options.only]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                work = {who: pool.submit(_done, FAULTS[fault], who, Path(name), settings) for who in (OURS, *peers)}
            for who, future in work.items():
                finding = future.result()
                row = _row(FAULTS[fault].what, who, finding)
                is_sound &= who != OURS or (isinstance(finding, Finding) and finding.holds)
                print(row, file=sys.stderr)
                rows.append(row)
    print("| fault | who | tasks | lost | stuck | run twice | | |\n|---|---|--:|--:|--:|--:|---|---|")
    print("\n".join(rows))
    print()
    print("\n".join(f"- {who}: {text}" for who, text in sorted(settings.items())))
    return 0 if is_sound else 1


def _done(fault: Fault, who: str, folder: Path, settings: dict[str, str]) -> Finding | str:
    """Return what the fault has done, or why it could not be done."""
    try:
        with side(who, Path(tempfile.mkdtemp(dir=folder))) as victim:
            settings[who] = victim.settings
            return fault.do(victim)
    except (ImportError, Skipped) as reason:
        return f"skipped: {reason}"
    except Exception as error:  # noqa: BLE001  # whatever a peer raises; the others go on
        traceback.print_exc()
        return f"failed: {error!r}"


def _row(what: str, who: str, finding: Finding | str) -> str:
    if isinstance(finding, str):
        return f"| {what} | {who} | | | | | {finding} | |"
    numbers = f"{finding.tasks} | {finding.lost} | {finding.stuck} | {finding.doubled}"
    return f"| {what} | {who} | {numbers} | {'holds' if finding.holds else 'does not hold'} | {finding.remark} |"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
