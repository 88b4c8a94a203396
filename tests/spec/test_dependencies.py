"""Tasks that wait for others, as applications see them: handles, outputs, batches, transactions, the command."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from thirdshift import (
    BackgroundTaskManager,
    DependencyCycle,
    ParentNotFound,
    QueueFull,
    TaskFailed,
    TaskHandle,
    TaskStatus,
    UsageError,
)
from thirdshift.testing import inline, run_until_idle
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.functions import add, echo, fail, fail_before_attempt
from thirdshift.testing.signals import TIMEOUT_S

UNKNOWN = "0" * 32


@pytest.fixture(params=["threaded", "process"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BackgroundTaskManager]:
    """With a worker of its own, in threads and in child processes."""
    with BackgroundTaskManager(request.param, 2, database=tmp_path / "tasks.db", durability="relaxed") as manager:
        yield manager


@pytest.fixture
def submitter(tmp_path: Path) -> Iterator[BackgroundTaskManager]:
    """Without a worker."""
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False, queue_size=100) as manager:
        yield manager


def total(numbers: list[float]) -> float:
    """Return their sum."""
    return sum(numbers)


def test_a_result_is_handed_from_task_to_task(manager: BackgroundTaskManager) -> None:
    """A chain: each waits for the one before it and gets what that returned."""
    first = manager.submit(add, 1, 2)
    second = manager.submit(add, first.output, 10)
    third = manager.submit(add, second.output, first.output)
    assert third.result(TIMEOUT_S) == 16
    assert [each.id for each in third.relatives.parents] == [first.id, second.id]


def test_a_group_has_one_result(manager: BackgroundTaskManager) -> None:
    """Many tasks and one that gets all that they return, in their order, stored in one commit."""
    with manager.batch() as batch:
        parts = [batch.submit(add, number, 0.5) for number in range(50)]
        sum_of_all = batch.submit(total, [part.output for part in parts])
        in_order = batch.submit(echo, {"parts": tuple(part.output for part in parts)})
    assert sum_of_all.result(TIMEOUT_S) == sum(range(50)) + 25
    assert in_order.result(TIMEOUT_S) == {"parts": tuple(number + 0.5 for number in range(50))}


def test_a_retried_parent_is_waited_for_to_the_end(manager: BackgroundTaskManager) -> None:
    """An attempt that fails is not its end."""
    parent = manager.options(max_retries=3).submit(fail_before_attempt, 2)
    assert manager.submit(add, parent.output, 1).result(TIMEOUT_S) == 3


def test_a_failing_is_told_to_who_waits_for_a_result(manager: BackgroundTaskManager) -> None:
    """Waiting for a task that can never run ends at once, and says which one failed."""
    parent = manager.options(max_retries=0).submit(fail, "no")
    child = manager.submit(echo, parent.output)
    grandchild = manager.submit(echo, child.output)
    tidy_up = manager.options(after_any_outcome=[grandchild]).submit(echo, "tidy")
    with pytest.raises(TaskFailed, match=f"needed task {child.id}, which failed or was cancelled"):
        grandchild.result(TIMEOUT_S)
    assert tidy_up.result(TIMEOUT_S) == "tidy"
    assert child.task.cancelled_by == parent.id


def test_a_retry_runs_the_rest_of_the_chain(manager: BackgroundTaskManager, tmp_path: Path) -> None:
    """Somebody mends the cause and retries the one that failed."""
    missing = tmp_path / "numbers.txt"
    parent = manager.options(max_retries=0).submit(read_number, str(missing))
    child = manager.submit(add, parent.output, 1)
    assert child.wait(TIMEOUT_S).status is TaskStatus.CANCELLED
    missing.write_text("41")
    assert manager.retry_task(parent.id)
    assert child.result(TIMEOUT_S) == 42


def read_number(path: str) -> int:
    """Return the number in the file."""
    return int(Path(path).read_text())


def test_handles_and_ids_are_taken(submitter: BackgroundTaskManager) -> None:
    """Each once; a task in both lists has to complete."""
    parent = submitter.submit(echo, 1)
    child = submitter.options(after=[parent, parent.id], after_any_outcome=[parent.id]).submit(echo, 2)
    ((found, name, status, need, _),) = child.relatives.parents
    assert (found, name, status.value, need.value) == (parent.id, "echo", "pending", "success")
    assert [each.id for each in parent.relatives.dependants] == [child.id]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (UNKNOWN, "after is '0{32}'; give a list of task ids or handles"),
        (3, "after is 3; give a list"),
        (["x"], "after holds 'x'; it takes ids of tasks and what submit returned"),
        ([None], "after holds None"),
    ],
)
def test_what_is_no_task_is_refused(submitter: BackgroundTaskManager, wrong: Any, words: str) -> None:
    """Before anything is stored."""
    with pytest.raises(UsageError, match=words):
        submitter.options(after=wrong)


def test_an_unknown_task_cannot_be_waited_for(submitter: BackgroundTaskManager) -> None:
    """It was pruned, or belongs to another database; nothing is stored."""
    with pytest.raises(ParentNotFound, match=f"no task has the id '{UNKNOWN}', which the new one is to wait for"):
        submitter.options(after=[UNKNOWN]).submit(echo)
    with pytest.raises(ParentNotFound, match=UNKNOWN):
        submitter.submit(echo, _output_of(submitter, UNKNOWN))
    assert submitter.get_stats()["total"] == 0


def _output_of(manager: BackgroundTaskManager, task_id: str) -> Any:
    """Return what stands for the result of a task that may not exist."""
    return TaskHandle(manager, task_id).output


def test_nobody_waits_for_itself(submitter: BackgroundTaskManager) -> None:
    """Whether it says so by its id or by an output."""
    task_id = "a" * 32
    with pytest.raises(DependencyCycle, match=task_id):
        submitter.options(task_id=task_id, after=[task_id]).submit(echo)
    with pytest.raises(DependencyCycle, match=task_id):
        submitter.options(task_id=task_id).submit(echo, _output_of(submitter, task_id))


def test_a_batch_is_stored_whole_or_not_at_all(submitter: BackgroundTaskManager) -> None:
    """An exception inside, or a queue that is too full for all of it, stores nothing."""
    with pytest.raises(ValueError, match="changed my mind"), submitter.batch() as batch:  # noqa: PT012  # the block raises
        batch.submit(echo, 1)
        raise ValueError("changed my mind")
    with pytest.raises(QueueFull), submitter.batch() as batch:
        batch.submit_many(echo, [(number,) for number in range(101)])
    assert submitter.get_stats()["total"] == 0
    with submitter.batch() as batch:
        batch.submit_many(echo, [(number,) for number in range(50)])
        assert submitter.get_stats()["total"] == 0, "not before the block is left"
    assert submitter.get_stats()["total"] == 50


def test_a_batch_is_used_once_and_inside_its_block(submitter: BackgroundTaskManager) -> None:
    """A submit outside would never be stored."""
    batch = submitter.batch()
    with pytest.raises(UsageError, match="the batch is not open"):
        batch.submit(echo)
    with batch:
        batch.options(queue="mail", priority=20).submit(echo)
        with pytest.raises(UsageError, match="unique_key"):
            batch.options(unique_key="a").submit(echo)
    with pytest.raises(UsageError, match="the batch is not open"):
        batch.submit(echo)
    with pytest.raises(UsageError, match="a batch is used once"), batch:
        pass
    assert [(task.queue, task.priority) for task in submitter.find_tasks()] == [("mail", 20)]


def test_a_batch_of_a_coroutine(manager: BackgroundTaskManager) -> None:
    """It is written while the event loop runs on."""

    async def work() -> float:
        async with manager.batch() as batch:
            first = batch.submit(add, 1, 1)
            second = await batch.asubmit(add, first.output, 1)
        return await second.aresult(TIMEOUT_S)

    assert asyncio.run(work()) == 3


def test_a_transaction_stores_tasks_that_wait(manager: BackgroundTaskManager) -> None:
    """With the application's rows, all or none."""
    with closing(sqlite3.connect(manager.database)) as connection:
        with manager.transaction(connection) as tx:
            first = tx.submit(add, 1, 1)
            second = tx.options(after=[first]).submit(add, first.output, 1)
        assert second.result(TIMEOUT_S) == 3
        with pytest.raises(ParentNotFound), manager.transaction(connection) as tx:  # noqa: PT012  # as above
            tx.submit(echo, 1)
            tx.options(after=[UNKNOWN]).submit(echo, 2)
    assert manager.get_stats()["total"] == 2


def test_outputs_in_inline_tests() -> None:
    """The test mode runs them too."""
    with inline() as manager:
        first = manager.submit(add, 1, 1)
        assert manager.submit(add, first.output, 1).result() == 3
        with manager.batch() as batch:
            parts = [batch.submit(add, number, 0) for number in range(3)]
            all_of_them = batch.submit(total, [part.output for part in parts])
        assert all_of_them.result() == 3


def test_a_waiting_task_of_a_test_runs_when_its_parent_has(tmp_path: Path) -> None:
    """Also when the parent is due later."""
    clock = FakeClock()
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False, clock=clock) as manager:
        parent = manager.options(run_at=clock.now() + timedelta(days=1)).submit(add, 1, 1)
        child = manager.submit(add, parent.output, 1)
        assert run_until_idle(manager) == []
        assert [task.id for task in run_until_idle(manager, advance=clock)] == [parent.id, child.id]


def test_an_emptied_queue_has_run_what_waited(manager: BackgroundTaskManager) -> None:
    """wait_until_drained waits for children too, because it waits for what they wait for."""
    with manager.batch() as batch:
        last = batch.submit(echo, 0)
        for _ in range(20):
            last = batch.submit(add, last.output, 1)
    assert manager.wait_until_drained(TIMEOUT_S)
    assert last.result(0) == 20


def test_an_output_is_no_value(submitter: BackgroundTaskManager) -> None:
    """Whoever looks at a waiting task sees what stands there."""
    parent = submitter.submit(echo, 1)
    (argument,), _ = submitter.submit(echo, parent.output).task.arguments
    assert argument == (parent.id,)
    assert type(argument).__name__ == "ResultOf"
