"""``make test``: most tests wait rather than compute and run four at a time; those marked ``alone`` follow one by one.

Both phases get the same arguments, which are pytest's, and the second one runs whatever came of the first. At the end
each phase has its line, and the last line is about both, in pytest's own form. The exit code is that of the first that
failed; a phase in which no test is left is no failure, unless the other has none either.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

PHASES = {"together": ["--numprocesses=4", "--dist=worksteal"], "alone": []}
EMPTY = int(pytest.ExitCode.NO_TESTS_COLLECTED)


def main() -> int:
    began = time.monotonic()
    codes: list[int] = []
    lines: list[str] = []
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="thirdshift-tests-") as folder:
        for phase, options in PHASES.items():
            phase_began = time.monotonic()
            tally = Path(folder, phase)
            command = [sys.executable, "-m", "pytest", f"--phase={phase}", f"--tally={tally}", *options, *sys.argv[1:]]
            codes.append(subprocess.call(command))
            counts = Counter(json.loads(tally.read_text()) if tally.exists() else {})
            total += counts
            broken = "" if codes[-1] in (0, 1, EMPTY) else f", ended with exit code {codes[-1]}"
            lines.append(f"{phase}: {in_words(counts)}{broken} in {time.monotonic() - phase_began:.0f} s")
    is_empty = codes == [EMPTY] * len(codes)
    code = EMPTY if is_empty else next((code for code in codes if code not in (0, EMPTY)), 0)
    sys.stdout.write("\n" + "".join(f"{line}\n" for line in lines))
    sys.stdout.write(f" {in_words(total)} in {time.monotonic() - began:.2f}s ".center(80, "=") + "\n")
    return code


def in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in counts.items()) or "no tests ran"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # it has reached pytest too, which has said so
        sys.exit(130)
