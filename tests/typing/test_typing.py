"""The types of the public API are part of it: wrong calls are errors before anything runs."""

import re
from pathlib import Path

from mypy import api

CALLS = Path(__file__).with_name("submit_calls.py")
ROOT = Path(__file__).parents[2]


def test_wrong_calls_are_type_errors_and_right_ones_are_not(tmp_path: Path) -> None:
    """Exactly the marked lines of ``submit_calls.py``."""
    command = ["--strict", "--no-error-summary", "--config-file=", f"--cache-dir={tmp_path}", str(CALLS)]
    output, problems, _ = api.run(command)
    assert problems == ""
    found = {int(line) for line in re.findall(r"submit_calls\.py:(\d+): error", output)}
    lines = enumerate(CALLS.read_text().splitlines(), start=1)
    assert found == {number for number, line in lines if line.endswith("# error")}, output
