"""Several simulated workers on one real file: every schedule keeps the promises, and every planted fault is found."""

import json
from pathlib import Path

import pytest

from thirdshift.testing.torture.harness import first_violation
from thirdshift.testing.torture.simulation import Simulation

SEEDS = 25


def test_random_schedules_break_no_promise(tmp_path: Path) -> None:
    """Submits, claims, ends, deaths, rescues, clock steps and what people do, in whatever order."""
    with Simulation().open(tmp_path, tmp_path, seed=1) as schedules:
        verdicts = [schedules.judge(number) for number in range(SEEDS)]
    assert [verdict.violations for verdict in verdicts if verdict.violations] == []
    done = {json.loads(line)["op"] for verdict in verdicts for line in verdict.story}
    assert done >= {"submit", "exchange", "kill", "rescue", "retry", "cancel", "pause", "limit", "time", "close"}


def test_a_seed_replays_exactly(tmp_path: Path) -> None:
    """The same seed and number tell the same story, the other number another one."""
    with Simulation().open(tmp_path, tmp_path, seed=7) as schedules:
        stories = [schedules.judge(number).story for number in (3, 3, 4)]
    assert stories[0] == stories[1] != stories[2]


@pytest.mark.parametrize("fault", Simulation.controls)
def test_a_planted_fault_is_found(fault: str) -> None:
    """Negative control."""
    assert first_violation(Simulation(), fault, seed=1) is not None
