"""From how a function ended to what becomes of its task."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thirdshift import Cancel, Retry, Snooze, UsageError
from thirdshift.core.outcome import LONGEST_WAIT_S, Ending, settle
from thirdshift.core.retry import RetryPolicy
from thirdshift.core.status import TRANSITIONS, TaskStatus
from thirdshift.core.task import AttemptOutcome, Claim, PoolKind, TaskId
from thirdshift.testing.clock import START

CLAIM = Claim(
    seq=1,
    id=TaskId("1" * 32),
    attempt=1,
    owner="w",
    name="n",
    function="m:f",
    arguments=b"",
    queue="q",
    pool=PoolKind.THREAD,
    priority=0,
    failures=0,
    max_retries=3,
    timeout_s=None,
    durable=True,
    claimed_at=START,
)
COUNTED = (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)


def ending(outcome: AttemptOutcome, after_s: float | None = None) -> Ending:
    return Ending(outcome, START, START, after_s=after_s)


@given(
    st.sampled_from(AttemptOutcome),
    st.integers(0, 9),
    st.integers(0, 9),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1e6),
)
def test_every_end_is_a_legal_change(
    outcome: AttemptOutcome, failures: int, max_retries: int, after_s: float | None, backoff_s: float
) -> None:
    """And a failure is final exactly when no retry is left."""
    claim = CLAIM._replace(failures=failures, max_retries=max_retries)
    settlement = settle(claim, ending(outcome, after_s), backoff_s)
    assert (TaskStatus.RUNNING, settlement.status) in TRANSITIONS
    assert (settlement.status is TaskStatus.FAILED) == (outcome in COUNTED and failures >= max_retries)
    if settlement.status in (TaskStatus.SCHEDULED, TaskStatus.RETRYING):
        assert settlement.due_at is not None
        assert settlement.due_at >= START


def test_a_functions_own_wait_overrides_the_backoff() -> None:
    """Retry(after=…) in seconds; zero is at once."""
    assert settle(CLAIM, ending(AttemptOutcome.FAILED, 5.0), 60.0).due_at == START + timedelta(seconds=5)
    assert settle(CLAIM, ending(AttemptOutcome.FAILED), 60.0).due_at == START + timedelta(seconds=60)
    assert settle(CLAIM, ending(AttemptOutcome.FAILED, 0.0), 60.0).status is TaskStatus.PENDING


@pytest.mark.parametrize("seconds", [-0.001, float("nan"), float("inf"), LONGEST_WAIT_S + 1, "5", None])
def test_a_wait_that_makes_no_sense_is_refused_where_it_is_written(seconds: object) -> None:
    """In the function that returns it, not in the worker that would have to keep it."""
    with pytest.raises(UsageError, match=r"Snooze\(seconds=…\) was given"):
        Snooze(seconds)  # type: ignore[arg-type]
    if seconds is not None:
        with pytest.raises(UsageError, match=r"Retry\(after=…\) was given"):
            Retry(seconds)  # type: ignore[arg-type]


def test_return_values_are_values() -> None:
    """Equal by content, unchangeable."""
    assert Retry() == Retry(None)
    assert Snooze() == Snooze(0.0) != Snooze(1)
    assert Cancel("x") == Cancel("x")
    with pytest.raises(AttributeError):
        Snooze().seconds = 1.0  # type: ignore[misc]


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_backoff_grows_to_its_limit(failures: int, random: float) -> None:
    """Full jitter: anything from 0 to the ceiling, which doubles with each failure."""
    policy = RetryPolicy(first_s=1.0, most_s=60.0)
    assert 0 <= policy.wait_s(failures, random) <= min(60.0, 2.0 ** min(failures, 60))
    assert policy.wait_s(failures, 0.0) == 0
    assert policy.wait_s(6, 0.5) == 30.0
