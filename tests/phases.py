"""``make test``: most tests wait rather than compute and run four at a time; those marked ``alone`` follow one by one.

Both phases get the same arguments, which are pytest's, and the second one runs whatever came of the first. The exit
code is that of the first that failed; a phase in which no test is left is no failure, unless the other has none either.
"""

import subprocess
import sys

import pytest

TOGETHER = ["--phase=together", "--numprocesses=4", "--dist=worksteal"]
ALONE = ["--phase=alone"]
EMPTY = pytest.ExitCode.NO_TESTS_COLLECTED


def run(phase: list[str]) -> int:
    return subprocess.call([sys.executable, "-m", "pytest", *phase, *sys.argv[1:]])


codes = [run(TOGETHER), run(ALONE)]
if codes != [EMPTY, EMPTY]:
    codes = [code for code in codes if code != EMPTY]
sys.exit(next(filter(None, codes), 0))
