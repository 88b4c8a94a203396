"""From a call to the task that is stored."""

from thirdshift.core.task import PoolKind
from thirdshift.submission import NO_OPTIONS, TaskMaker
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
