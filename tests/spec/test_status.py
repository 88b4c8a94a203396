"""What a task can be, and how it may change."""

from thirdshift import TaskPriority, TaskStatus
from thirdshift.core.status import FINISHED, TRANSITIONS


def test_the_words_are_the_promised_ones() -> None:
    """``value`` is the lower-case word."""
    words = {"pending", "running", "retrying", "completed", "failed", "cancelled", "scheduled", "waiting"}
    assert {status.value for status in TaskStatus} == words
    assert all(status.value == status.name.lower() for status in TaskStatus)


def test_a_finished_task_changes_only_by_an_explicit_retry() -> None:
    """Which makes it pending, or lets it wait for others that run again."""
    assert {status for status in TaskStatus if status.is_finished} == FINISHED
    assert {(old, new) for old, new in TRANSITIONS if old.is_finished} == {
        (old, new) for old in FINISHED for new in (TaskStatus.PENDING, TaskStatus.WAITING)
    }


def test_only_pending_tasks_start_and_only_running_ones_end_by_themselves() -> None:
    """There is one way into running."""
    assert {old for old, new in TRANSITIONS if new is TaskStatus.RUNNING} == {TaskStatus.PENDING}
    for end in (TaskStatus.COMPLETED, TaskStatus.FAILED):
        assert {old for old, new in TRANSITIONS if new is end} == {TaskStatus.RUNNING}


def test_every_status_can_be_reached_and_left() -> None:
    """No dead ends, and waiting is where a submit may put a task."""
    assert {old for old, _ in TRANSITIONS} == set(TaskStatus)
    submitted = {TaskStatus.PENDING, TaskStatus.SCHEDULED, TaskStatus.WAITING}
    assert {new for _, new in TRANSITIONS} | submitted == set(TaskStatus)
    assert all(old is not new for old, new in TRANSITIONS)


def test_priorities_are_ordered() -> None:
    """A higher one starts first; integers between them are fine."""
    assert TaskPriority.LOW < TaskPriority.NORMAL < TaskPriority.HIGH < TaskPriority.CRITICAL
    assert TaskPriority.NORMAL < 15 < TaskPriority.HIGH
