"""A disk on which an fsync takes longer: a preloaded shim of ours (``slow_fsync.c``), for child processes only."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench import Skipped

DELAY_MS = 2
_SOURCE = Path(__file__).with_name("slow_fsync.c")


def environment(folder: Path) -> dict[str, str]:
    """Build the shim in *folder* and return the environment of a child with a slow disk; raises ``Skipped``."""
    if sys.platform != "linux":
        raise Skipped(f"the shim that delays an fsync works on Linux only, not on {sys.platform}")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Skipped("the shim that delays an fsync needs a C compiler, and there is no cc, gcc or clang")
    library = folder / "slow_fsync.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise Skipped(f"the shim that delays an fsync does not compile: {built.stderr.strip()}")
    preload = " ".join(filter(None, (str(library), os.environ.get("LD_PRELOAD"))))
    return {**os.environ, "LD_PRELOAD": preload, "SLOW_FSYNC_MS": str(DELAY_MS)}
