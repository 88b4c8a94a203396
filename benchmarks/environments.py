"""Virtual environments of peers that do not fit into ours: made by the first run, found by later ones."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import HERE, Skipped

_INSTALL_LIMIT_S = 180


def interpreter(name: str) -> str:
    """Return the interpreter of the environment that ``<name>-requirements.txt`` describes."""
    wanted = HERE / f"{name}-requirements.txt"
    folder = Path(tempfile.gettempdir(), f"thirdshift-bench-{name}-{os.getuid()}")
    python, installed = folder / "bin" / "python", folder / wanted.name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise Skipped(f"{folder} belongs to somebody else")
    if not installed.exists() or installed.read_text() != wanted.read_text():
        _install([sys.executable, "-m", "venv", "--clear", str(folder)])
        _install([str(python), "-m", "pip", "install", "--requirement", str(wanted)])
        shutil.copy(wanted, installed)  # last: what is there is whole
    return str(python)


def _install(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, timeout=_INSTALL_LIMIT_S, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        *_, reason = (error.stderr or error.stdout).strip().splitlines() or [str(error)]
        raise Skipped(f"its environment cannot be made: {reason}") from error
    except subprocess.TimeoutExpired as error:
        raise Skipped(f"its environment cannot be made within {_INSTALL_LIMIT_S} s") from error
