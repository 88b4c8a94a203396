"""Rules of the core that are too small for a file of their own: words, defaults that are promised, sums."""

from dataclasses import fields
from datetime import timedelta

import pytest

import thirdshift
from thirdshift.core.alerts import AlertKind, AlertRule
from thirdshift.core.declare import is_interruptible
from thirdshift.core.errors import ParentNotFound, UsageError
from thirdshift.core.figures import Histogram, bucket_of
from thirdshift.core.health import HealthLimits
from thirdshift.core.limits import QueueLimits
from thirdshift.core.schedule import Schedule
from thirdshift.core.task import BackgroundTask
from thirdshift.core.words import duration

DURATIONS = {
    0.25: "250 ms",
    1: "1.0 s",
    10: "10 s",
    119: "119 s",
    120: "2 min",
    7199: "120 min",
    7200: "2 h",
    172_800: "2 d",
}


@pytest.mark.parametrize("seconds", DURATIONS)
def test_spans_are_said_in_the_unit_that_suits_them(seconds: float) -> None:
    """The next larger one from two of it on."""
    assert duration(timedelta(seconds=seconds)) == DURATIONS[seconds]


def test_percentiles_of_times() -> None:
    """Of a hundred times from 1 to 100 ms; a bucket is within two percent."""
    times = Histogram()
    for number in range(1, 101):
        times += Histogram({bucket_of(number * 1000): 1})
    assert times.total == 100
    assert [times.percentile_s(percent) for percent in (1, 50, 99)] == [
        pytest.approx(seconds, rel=0.02) for seconds in (0.001, 0.050, 0.099)
    ]
    assert 48 <= times.count_below(0.05) <= 50
    assert times.count_below(1.0) == 100
    assert Histogram().percentile_s(50) is None


def test_the_slowest_rate_is_one_a_day() -> None:
    """Slower ones are a mistake of units."""
    assert QueueLimits(rate=1 / 86_400).bucket == 1
    with pytest.raises(UsageError, match="one a day"):
        QueueLimits(rate=1 / 86_401)


def test_parents_that_are_not_there_are_named() -> None:
    """The first of them, and how many others."""
    assert "nor" not in str(ParentNotFound(["a"]))
    assert "no task has the id 'a', " in str(ParentNotFound(["a", "b", "c"]))
    assert ", nor 2 others; " in str(ParentNotFound(["a", "b", "c"]))


def test_what_is_for_threads_alone_says_where_the_function_runs() -> None:
    """And which option it is about."""

    async def later() -> None: ...

    def plain() -> None: ...

    for option in ("interrupt", "detach_after"):
        given = {option: True} if option == "interrupt" else {option: 5.0}
        with pytest.raises(UsageError, match=f"{option}: .*later.* the event loop"):
            thirdshift.task(**given)(later)
        with pytest.raises(UsageError, match=f"{option}: .*plain.* a child process"):
            thirdshift.task(pool="process", **given)(plain)
    thirdshift.task(pool="process")(plain)


def test_defaults_that_are_promised() -> None:
    """They stand in the documentation; who changes one changes what people rely on."""
    rules = {kind: AlertRule(kind=kind) for kind in AlertKind}
    assert {rule.quiet_s for rule in rules.values()} == {60.0}
    assert {rule.window_s for rule in rules.values()} == {600.0}
    assert [rules[kind].limit for kind in AlertKind] == [0.1, 300.0, 300.0, 60.0, 0.0, 200e6, 600.0]
    assert Schedule(every=60).max_missed == 100
    limits = HealthLimits()
    assert (limits.check_s, limits.oldest_task_s, limits.recent_s, limits.answer_s) == (10.0, 3600.0, 600.0, 2.0)


def test_no_function_may_be_interrupted_unless_it_says_so() -> None:
    """An exception is raised into a thread only where the function has asked for it."""

    def plain() -> None: ...

    assert not is_interruptible(thirdshift.task()(plain))
    assert is_interruptible(thirdshift.task(interrupt=True)(plain))


def test_arguments_are_in_no_representation() -> None:
    """What a program logs of a task must not tell its secrets."""
    shown = {field.name: field.repr for field in fields(BackgroundTask)}
    assert not shown["encoded_arguments"]
