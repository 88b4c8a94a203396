"""The bars of the contract's section 10 in one table, and the judge that holds the figures of one run against them.

A ratio is the median of the rounds' ratios: both sides were measured in turn. An absolute bar holds on a quiet machine
only: where the raw loop beside it runs at under half its usual rate, the bar is skipped.
"""

import operator
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench import BARE, OURS, Figure
from claims import LARGE, MOUNTAIN, QUICK_MOUNTAIN, SMALL
from deaths import NAME as DEATH
from imports import HEAVY, MANAGER, NAME
from limit_keys import AMONG, PAST, SMALL_COUNT
from monitoring import RATE
from peers import CELERY, HUEY
from runs import COMMIT, DRAIN, FSYNC, IDLE_CPU, IDLE_MEMORY, RESULT, START
from submits import SLOW, name

USUAL = {
    COMMIT.format("relaxed"): 30_000,
    COMMIT.format("full"): 5_000,
    "submit_many full": 80_000,
    DRAIN.format("full"): 40_000,
}
"""What the bare loop does a second on the quiet 2-core machine for which the contract's floors were written."""


@dataclass(frozen=True)
class Bar:
    """Our figure of *case* must be *sense* *limit*: as it is, or divided by that of *beside*."""

    case: str
    sense: Literal[">=", "<="]
    limit: float
    goal: str
    beside: tuple[str, ...] = ()
    """With whom it is compared; of several, with the best."""
    beside_case: str | None = None
    """The other case, where it is not the same."""
    spread: bool = False
    """Judge the 99th percentile as a multiple of the median."""
    raw: str | None = None
    """The case whose bare loop says whether the machine is quiet enough for an absolute bar."""
    plus_fsync: bool = False


def _start(place: str, bar: float, goal: str) -> list[Bar]:
    found = []
    for durability in ("relaxed", "full"):
        case = START.format(durability, place)
        is_full = durability == "full"
        raw = COMMIT.format(durability)
        found.append(Bar(case, "<=", bar, f"{goal} ms{' + one fsync' * is_full}", raw=raw, plus_fsync=is_full))
        found.append(Bar(case, "<=", 5, "", spread=True))
    return found


BARS = (
    Bar(name("relaxed", 1), ">=", 0.5, "0.8 x", beside=(BARE,)),
    Bar(name("full", 1), ">=", 0.8, "0.9 x", beside=(BARE,)),
    Bar(name("relaxed", 1), ">=", 7, "", beside=(CELERY["relaxed"],)),
    Bar(name("full", 1), ">=", 7, "", beside=(CELERY["full"],)),
    Bar(name("full", 64), ">=", 1.5, "20,000/s", beside=(OURS,), beside_case=name("full", 1)),
    Bar(name("full", 64, SLOW), ">=", 8, "20 x", beside=(OURS,), beside_case=name("full", 1, SLOW)),
    Bar("submit_many full", ">=", 60_000, "150,000/s", raw="submit_many full"),
    Bar(DRAIN.format("full"), ">=", 12_000, "40,000/s", raw=DRAIN.format("full")),
    Bar(DRAIN.format("full"), ">=", 12, "", beside=(CELERY["relaxed"],), beside_case=DRAIN.format("relaxed")),
    Bar(DRAIN.format("full"), ">=", 5, "", beside=(HUEY["full"], CELERY["full"])),
    *_start("same", 0.6, "0.25"),
    *_start("other", 1.2, "0.5"),
    Bar(RESULT.format("relaxed", "same"), "<=", 2, "0.6 ms", raw=COMMIT.format("relaxed")),
    Bar(RESULT.format("relaxed", "other"), "<=", 2, "0.6 ms", raw=COMMIT.format("relaxed")),
    Bar(IDLE_CPU, "<=", 0.05, "0.01 s"),
    Bar(IDLE_MEMORY, "<=", 40, "28 MiB"),
    *(Bar(LARGE.format(n), "<=", 1.5, "1.1 x", beside=(OURS,), beside_case=SMALL) for n in (MOUNTAIN, QUICK_MOUNTAIN)),
    *(
        Bar(case.format(n), "<=", 1.5, "1.1 x", beside=(OURS,), beside_case=case.format(SMALL_COUNT))
        for n in (MOUNTAIN, QUICK_MOUNTAIN)
        for case in (PAST, AMONG)
    ),
    *(Bar(DEATH.format(pool), "<=", 1000, "50 ms") for pool in ("thread", "process")),
    Bar(RATE.format("on"), ">=", 1 / 1.05, "", beside=(OURS,), beside_case=RATE.format("off")),
    Bar(NAME, "<=", 150, "60 ms"),
    Bar(MANAGER, "<=", 150, "60 ms"),
    Bar(HEAVY, "<=", 0, ""),
)


@dataclass(frozen=True)
class Verdict:
    """One bar, what was measured, and whether it is met."""

    what: str
    figure: str
    bar: str
    goal: str
    verdict: str
    """``met``, ``missed`` or ``skipped: <reason>``."""


class Judge:
    """Holds the bars against the figures of one run."""

    def __init__(self, figures: Sequence[Figure]) -> None:
        self._figures = {(figure.case, figure.who): figure for figure in figures}

    def verdicts(self) -> list[Verdict]:
        """Judge every bar whose case was measured."""
        return [self._judge(bar) for bar in BARS if (bar.case, OURS) in self._figures]

    def _judge(self, bar: Bar) -> Verdict:
        ours = self._figures[bar.case, OURS]
        limit, reason = bar.limit, self._reason_to_skip(bar)
        if bar.beside:
            beside = [self._figures.get((bar.beside_case or bar.case, who)) for who in bar.beside]
            there = [figure for figure in beside if figure is not None]
            others = (bar.beside_case if who == OURS and bar.beside_case else who for who in bar.beside)
            what = f"{bar.case}, beside {' or '.join(others)}"
            unit = "x"
            value = _ratio(ours, there) if there else 0.0
        elif bar.spread:
            what, unit, value = f"{bar.case}, p99 beside p50", "x", ours.p99 / ours.median
        else:
            what, unit, value = bar.case, ours.unit, ours.median
            if bar.plus_fsync and reason is None:
                limit += self._figures[FSYNC, "disk"].median
        holds = {">=": operator.ge, "<=": operator.le}[bar.sense](value, limit)
        figure = "-" if bar.beside and not there else f"{number(value)} {unit}"
        verdict = f"skipped: {reason}" if reason else "met" if holds else "missed"
        return Verdict(what, figure, f"{bar.sense} {number(limit)} {unit}", bar.goal, verdict)

    def _reason_to_skip(self, bar: Bar) -> str | None:
        if bar.beside and not any((bar.beside_case or bar.case, who) in self._figures for who in bar.beside):
            return "the other side was not measured"
        if bar.raw is None:
            return None
        raw = self._figures.get((bar.raw, BARE))
        if raw is None:
            return f"the raw loop ({bar.raw}) was not measured in this run"
        if raw.median < USUAL[bar.raw] / 2:
            return f"the raw loop ({bar.raw}) does {number(raw.median)}/s, usual are {USUAL[bar.raw]:,}/s"
        return None


def number(value: float) -> str:
    """Return three digits or the whole part, whichever is longer."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _ratio(ours: Figure, others: Sequence[Figure]) -> float:
    """Return the median of the rounds' ratios to the best of *others*; all were measured in the same rounds."""
    rounds = zip(ours.samples, *(other.samples for other in others), strict=True)
    ratios: list[float] = [mine / max(theirs) for mine, *theirs in rounds]
    return statistics.median(ratios)
