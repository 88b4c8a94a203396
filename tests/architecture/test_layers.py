"""Dependencies go one way: the contracts in ``pyproject.toml`` are kept."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_import_contracts_are_kept(tmp_path: Path) -> None:
    """As ``make lint`` checks them; in a process of its own, because the linter switches the loggers of others off."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--cache-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
