"""What fails under a process costs it nothing that it was told: failing calls, full disks, no memory, damaged pages."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from thirdshift.testing.torture.harness import Harness, first_violation, folder_in_memory
from thirdshift.testing.torture.pages import Pages
from thirdshift.testing.torture.room import DiskFull, Memory
from thirdshift.testing.torture.syscalls import Syscalls

CASES: Mapping[Harness, int] = {Syscalls(): 30, DiskFull(): 20, Memory(): 20, Pages(): 60}
"""How many of each are made here; ``thirdshift torture`` makes them all."""


def able(harness: Harness) -> Harness:
    reason = harness.why_not()
    if reason is not None:
        pytest.skip(reason)
    return harness


@pytest.mark.parametrize("harness", CASES, ids=lambda harness: harness.name)
def test_nothing_that_was_acknowledged_is_lost(harness: Harness, tmp_path: Path) -> None:
    """And nothing that was refused is done; the next worker finishes all that is left."""
    found: dict[int, object] = {}
    figures: Counter[str] = Counter()
    with folder_in_memory() as folder, able(harness).open(folder, tmp_path, seed=1) as bench:
        most = CASES[harness] if bench.cases is None else bench.cases
        step = max(1, most // CASES[harness])
        for number in range(0, step * CASES[harness], step):
            verdict = bench.judge(number)
            figures.update(verdict.figures)
            if verdict.violations:
                found[number] = verdict.violations
    assert found == {}, figures


@pytest.mark.parametrize(
    ("harness", "fault"),
    [(harness, fault) for harness in CASES for fault in harness.controls],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_planted_fault_is_found(harness: Harness, fault: str) -> None:
    """Negative control."""
    assert first_violation(able(harness), fault, seed=1) is not None
