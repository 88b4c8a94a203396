"""An error of one part of the daemon makes that part rest, and no other."""

import pytest

from thirdshift.apps.training.service.steps import Step


class Faulty:
    """Fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.calls = 0
        self._failures = failures

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self._failures:
            raise OSError(f"failure {self.calls}")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_failing_step_rests_longer_each_time() -> None:
    """1, 2, 4, 8 and then always 10 times the pause; after a success it begins anew."""
    clock, told = Clock(), list[tuple[str, float]]()
    work = Faulty(failures=6)
    step = Step(work, 60, lambda error, pause_s: told.append((str(error), pause_s)), clock=clock)
    for _ in range(6):
        step()
        calls = work.calls
        clock.now += told[-1][1] - 0.1
        step()
        assert work.calls == calls, "it rests"
        clock.now += 0.1
    assert [pause_s for _, pause_s in told] == [60, 120, 240, 480, 600, 600]
    assert told[0][0] == "failure 1"
    step()
    step()
    assert (work.calls, len(told)) == (8, 6)


def test_the_wish_to_end_is_no_error() -> None:
    """Ctrl-C and sys.exit pass through."""
    with pytest.raises(KeyboardInterrupt):
        Step(interrupted, 1, lambda *_: pytest.fail("nothing failed"))()


def interrupted() -> None:
    raise KeyboardInterrupt
