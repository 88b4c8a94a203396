"""A copy of the project to break: what is mutated there is never what somebody works on."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("src/thirdshift/core", "src/thirdshift/engines/sqlite")
"""What is mutated."""
_COPIED = ("src", "tests", "benchmarks", "examples", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Tree:
    """The copy; Python finds its ``src`` before the installed one."""

    path: Path

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.path / "src"), "PYTHONDONTWRITEBYTECODE": "1"}


def copy(folder: Path) -> Tree:
    """Bring the copy in *folder* to the state of the project: uncommitted changes too, what git ignores not."""
    shutil.rmtree(folder, ignore_errors=True)
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *_COPIED]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return Tree(folder.resolve())
