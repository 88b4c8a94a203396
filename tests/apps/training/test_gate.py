"""A file that makes earlier ones worse than it may is held back; one that was only unlucky is not."""

from dataclasses import replace

import pytest

from thirdshift.apps.training.job import Evaluation
from thirdshift.apps.training.runs.gate import worsened
from thirdshift.apps.training.settings import TrainingSettings

SETTINGS = TrainingSettings()


def examined(right: int, asked: int = 64, loss: float = 0.5) -> Evaluation:
    return Evaluation(asked=asked, right=right, loss=loss)


@pytest.mark.parametrize(
    ("before", "after", "is_worse"),
    [
        (examined(64), examined(64), False),
        (examined(20), examined(60), False),
        (examined(64), examined(58), False),  # 9 points
        (examined(64), examined(56), True),  # 12 points
        (examined(32), examined(25), False),  # 11 points of 50 are within chance
        (examined(32), examined(20), True),
        (examined(8, asked=8), examined(7, asked=8), False),  # one answer of eight
        (examined(8, asked=8), examined(2, asked=8), True),
        (examined(60, loss=0.1), examined(60, loss=3.0), False),  # where answers are right, they decide
        (examined(0, loss=2.0), examined(0, loss=2.9), False),
        (examined(0, loss=2.0), examined(0, loss=3.2), True),
        (examined(0, asked=0, loss=0.001), examined(0, asked=0, loss=0.05), False),  # near zero percents say nothing
        (examined(0, asked=0, loss=1.0), examined(0, asked=0, loss=1.7), True),
        (examined(1, asked=1, loss=0.1), examined(0, asked=1, loss=0.2), False),
    ],
)
def test_a_fall_counts_when_it_is_large_and_no_chance(before: Evaluation, after: Evaluation, is_worse: bool) -> None:
    """Exact match decides where enough answers were right, else the loss."""
    assert bool(worsened({"a": before}, {"a": after}, SETTINGS)) == is_worse


def test_it_says_which_and_how() -> None:
    """Every examination by itself, with the numbers and the limit."""
    before = {"a": examined(64), "b": examined(64), "c": examined(0, loss=1.0)}
    after = {"a": examined(64), "b": examined(32), "c": examined(0, loss=4.0)}
    assert worsened(before, after, SETTINGS) == {
        "b": "exact match 100.0% before, 50.0% after; allowed is a fall of 10 points",
        "c": "loss 1.000 before, 4.000 after; allowed is 1.600",
    }


def test_it_can_be_opened() -> None:
    """A fall of 100 points and any growth are allowed: nothing is held back."""
    settings = replace(SETTINGS, worst_match_fall=100, worst_loss_growth=1e9)
    before, after = {"a": examined(64), "b": examined(0, loss=1)}, {"a": examined(0), "b": examined(0, loss=99)}
    assert worsened(before, after, settings) == {}
