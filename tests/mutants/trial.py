"""One mutant against its tests: written into a copy of the project, which is as it was afterwards."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mutations import Mutant
from tree import ROOT, Tree

_START_S = 30
"""What an interpreter with pytest may need on a busy machine."""
_SLOWER = 10


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What became of a mutant."""

    outcome: str
    """``killed``, ``timeout`` (killed too: a test never came to its end), ``survived``, ``uncovered``."""
    tests: int
    seconds: float
    first_failure: str = ""


def attempt(mutant: Mutant, tests: list[str], expected_s: float, tree: Tree) -> Trial:
    """Run *tests* on *mutant* until one fails."""
    path = tree.path / mutant.module
    path.write_text(mutant.text())
    try:
        return run(tests, expected_s, tree)
    finally:
        path.write_text((ROOT / mutant.module).read_text())


def run(tests: list[str], expected_s: float, tree: Tree) -> Trial:
    """Run *tests* on the tree as it is, in a process group of their own that is gone afterwards."""
    names = Path(f"{tree.path}.tests")
    names.write_text("\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider"]
    command += ["--timeout=60", f"@{names}"]
    began = time.monotonic()
    child = subprocess.Popen(
        command,
        cwd=tree.path,
        env=tree.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,  # in our session: the kernel shares the processor among sessions before it asks for idle
    )
    try:
        output, _ = child.communicate(timeout=_START_S + expected_s * _SLOWER)
    except subprocess.TimeoutExpired:
        output = "Timeout"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    took_s = time.monotonic() - began
    if child.returncode == 0:
        return Trial(outcome="survived", tests=len(tests), seconds=took_s)
    is_late = output == "Timeout" or "Timeout >" in output or "+ Timeout +" in output
    failures = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    reason = failures[0] if failures else output.strip()[-200:]
    return Trial(
        outcome="timeout" if is_late else "killed", tests=len(tests), seconds=took_s, first_failure=reason[:300]
    )
