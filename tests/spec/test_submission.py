"""From a call to the task that is stored."""

from datetime import timedelta
from typing import Any

import pytest

from thirdshift import UsageError, task
from thirdshift.core.task import OnConflict, PoolKind, UniqueKey
from thirdshift.submission import NO_OPTIONS, SubmitOptions, TaskMaker
from thirdshift.testing import functions
from thirdshift.testing.clock import FakeClock


def test_ids_of_one_maker_grow_and_those_of_two_differ() -> None:
    """Also within one millisecond."""
    clock = FakeClock()
    makers = [TaskMaker(clock, queue="q", pool=PoolKind.THREAD, durable=True) for _ in range(2)]
    calls = [((number,), {}) for number in range(1_000)]
    first, second = ([task.id for task in maker.make(NO_OPTIONS, functions.echo, calls)] for maker in makers)
    assert first == sorted(first)
    assert len({*first, *second}) == 2_000
    assert all(len(task_id) == 32 and int(task_id, 16) >= 0 for task_id in first)


def make_unique(**options: Any) -> UniqueKey | None:
    maker = TaskMaker(FakeClock(), queue="q", pool=PoolKind.THREAD, durable=True)
    (task,) = maker.make(SubmitOptions(**options), functions.echo, [((), {})])
    return task.spec.unique


def test_a_unique_key_is_made_of_three_options() -> None:
    """A period may be seconds or a timedelta."""
    assert make_unique() is None
    assert make_unique(unique_key="a") == UniqueKey(key="a")
    assert make_unique(unique_key="é" * 200, unique_for=1.5) == UniqueKey(key="é" * 200, period_s=1.5)
    wanted = UniqueKey(key="two\nlines", period_s=3600.0, on_conflict=OnConflict.REPLACE)
    assert make_unique(unique_key="two\nlines", unique_for=timedelta(hours=1), on_conflict="replace") == wanted


@task(limit_key="ledger")
def post(amount: int) -> int:
    """Stand for what must not run twice at a time, whatever it is called with."""
    return amount


def test_a_limit_key_is_declared_or_given() -> None:
    """A submit says more than the function does."""
    maker = TaskMaker(FakeClock(), queue="q", pool=PoolKind.THREAD, durable=True)
    made = [maker.make(options, post, [((1,), {})]) for options in (NO_OPTIONS, SubmitOptions(limit_key="c-7"))]
    assert [each.spec.limit_key for (each,) in made] == ["ledger", "c-7"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unique_key": ""}, "unique_key is ''; it must be a text of 1 to 200 characters"),
        ({"unique_key": "x" * 201}, "unique_key is 'xxx"),
        ({"unique_key": 42}, "unique_key is 42"),
        ({"unique_key": "caf\udce9"}, "unique_key is 'caf"),
        ({"unique_key": "a\0b"}, "unique_key is 'a"),
        ({"unique_key": "a", "unique_for": 0}, "unique_for is 0; it is in seconds"),
        ({"unique_key": "a", "unique_for": timedelta(-1)}, "unique_for is -1 day"),
        ({"unique_key": "a", "unique_for": float("nan")}, "unique_for is nan"),
        ({"unique_key": "a", "on_conflict": "ask"}, "on_conflict is 'ask'; it may be 'keep' or 'replace' or"),
        ({"unique_for": 5}, "are about a unique_key; give one"),
        ({"on_conflict": "error"}, "are about a unique_key; give one"),
    ],
)
def test_a_unique_key_that_makes_no_sense_is_refused(options: dict[str, Any], words: str) -> None:
    """By name, with what may stand there."""
    with pytest.raises(UsageError, match=words):
        make_unique(**options)
