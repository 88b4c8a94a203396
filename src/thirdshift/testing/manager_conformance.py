"""The suite of the manager over real pools: what applications are promised, as tests.

:class:`ManagerConformance` holds for every pool, :class:`ProcessConformance` adds what only a process that can be
killed makes true.
"""

import asyncio
import functools
import importlib
import os
import select
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from thirdshift.core.engine import TaskFilter
from thirdshift.core.errors import (
    NotImportable,
    QueueFull,
    StoreError,
    TaskFailed,
    TaskNotFound,
    UniqueConflict,
    UsageError,
    WaitTimeout,
)
from thirdshift.core.events import AttemptLost, EndedAfterCommit, Event
from thirdshift.core.limits import QueueLimits
from thirdshift.core.pruning import PruningConfig
from thirdshift.core.reason import ReasonCode
from thirdshift.core.schedule import Schedule
from thirdshift.core.status import TaskPriority, TaskStatus
from thirdshift.core.task import AttemptOutcome, BackgroundTask
from thirdshift.handle import TaskHandle
from thirdshift.manager import BackgroundTaskManager
from thirdshift.runtime import unknown
from thirdshift.runtime.context import TaskContext
from thirdshift.testing import coroutines, functions
from thirdshift.testing.signals import TIMEOUT_S, Signal

SEND = "def send(what):\n    return f'sent {what}'\n"


class ManagerConformance:
    """Subclass it and say which pool is meant."""

    worker_type: ClassVar[str]
    """``threaded``, ``process`` or ``async``."""
    functions: ClassVar[Any] = functions
    """The task functions as this pool runs them."""

    tmp_path: Path
    events: list[Event]
    """What the workers of this test have said."""
    manager: BackgroundTaskManager
    _stack: ExitStack

    @pytest.fixture(autouse=True)
    def a_manager(self, tmp_path: Path) -> Iterator[None]:
        """Give every test a running manager with two slots."""
        self.tmp_path = tmp_path
        self.events = []
        with ExitStack() as self._stack:
            self.manager = self._stack.enter_context(self.open())
            yield
            assert self.manager.failure is None

    # What the tests say

    def open(self, **options: Any) -> BackgroundTaskManager:
        """Open a manager on the file of this test."""
        options = {"max_workers": 2, "shutdown_timeout_seconds": 5.0, "observe": self.events.append, **options}
        return BackgroundTaskManager(self.worker_type, database=self.tmp_path / "tasks.db", **options)

    def signal(self, name: str) -> Signal:
        """Make a signal that lasts for this test."""
        return self._stack.enter_context(Signal(self.tmp_path / name))

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> BackgroundTask:
        """Run *function* to its end and return its task."""
        return self.manager.options(**options).submit(function, *args).wait(TIMEOUT_S)

    def busy(self, **options: Any) -> "Held":
        """Start a task that lasts until the test releases it."""
        number = len(list(self.tmp_path.glob("said-*")))
        said, released = self.signal(f"said-{number}"), self.signal(f"released-{number}")
        handle = self.manager.options(**options).submit(self.functions.hold, said.path, released.path)
        return Held(handle, int(said.wait()), released)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for what nobody announces."""
        pause = threading.Event()
        for _ in range(int(TIMEOUT_S / 0.01)):
            if is_so():
                return
            pause.wait(0.01)
        raise TimeoutError("it never came to be so")

    # Results and errors

    def test_a_function_runs_and_its_result_can_be_read(self) -> None:
        """By handle, and by the task's id."""
        handle = self.manager.submit(self.functions.add, 2, 3)
        assert handle.result(TIMEOUT_S) == 5
        task_id = self.manager.submit_task(self.functions.add, 2, second=0.5)
        assert self.manager.handle(task_id).result(TIMEOUT_S) == 2.5
        found = self.manager.get_task(task_id)
        assert found is not None
        assert (found.status, found.result, found.error) == (TaskStatus.COMPLETED, 2.5, None)
        assert (found.name, found.arguments) == ("add", ((2,), {"second": 0.5}))
        assert self.manager.get_task_status(task_id) is TaskStatus.COMPLETED

    def test_values_come_back_equal_and_of_their_type(self) -> None:
        """Through the store, and through a child process."""
        value = {"when": datetime(2030, 1, 1, tzinfo=UTC), "where": Path("a"), "odd": "\ud800", "raw": (b"\0\xff", {1})}
        assert self.run(self.functions.echo, value).result == value

    def test_methods_of_classes_run_by_name(self) -> None:
        """Static and class methods."""
        assert self.run(self.functions.Kitchen.boil, "rice").result == "boiled rice"
        assert self.run(self.functions.Kitchen.fry, "rice").result == "Kitchen fried rice"

    def test_an_error_is_kept_with_its_traceback(self) -> None:
        """Type, message, and where it happened; our own frames are left out."""
        found = self.run(self.functions.fail, "no such customer", max_retries=0)
        assert found.status is TaskStatus.FAILED
        assert found.error is not None
        assert (found.error.type, found.error.message) == ("ValueError", "no such customer")
        assert found.error.traceback is not None
        assert "raise ValueError(message)" in found.error.traceback
        assert "runtime/attempt.py" not in found.error.traceback
        with pytest.raises(TaskFailed, match="ValueError: no such customer") as caught:
            self.manager.handle(found.id).result()
        assert caught.value.traceback == found.error.traceback

    @pytest.mark.parametrize(
        ("function", "kind", "message"),
        [
            (functions.raise_unspeakable, "Unspeakable", "cannot be shown"),
            (functions.raise_half_a_character, "ValueError", "caf\\udce9"),
            (functions.raise_interrupt, "KeyboardInterrupt", "by hand"),
        ],
    )
    def test_a_strange_error_fails_its_task_only(self, function: Callable[..., Any], kind: str, message: str) -> None:
        """Whatever is raised is recorded, and the worker lives on."""
        found = self.run(getattr(self.functions, function.__name__), max_retries=0)
        assert found.status is TaskStatus.FAILED
        assert found.error is not None
        assert found.error.type == kind
        assert message in found.error.message
        assert [self.run(self.functions.add, n, 1).result for n in range(4)] == [1, 2, 3, 4]

    def test_leaving_the_interpreter_is_a_failure(self) -> None:
        """sys.exit in a task ends the task, not the worker."""
        found = self.run(self.functions.leave, 3, max_retries=0)
        assert found.error is not None
        assert found.error.type in ("SystemExit", "ProcessDied")
        assert self.run(self.functions.add, 1, 1).result == 2

    def test_a_result_that_cannot_be_stored_fails_with_a_message(self) -> None:
        """It says what it is and what could be stored."""
        found = self.run(self.functions.unserialisable, max_retries=0)
        assert found.status is TaskStatus.FAILED
        assert found.error is not None
        assert found.error.message.startswith("the result is a builtins.object, which cannot be stored")

    # What is refused at submit

    @pytest.mark.parametrize(
        ("what", "why"),
        [
            (lambda: None, "it is a lambda"),
            (functools.partial(functions.add, 1), "it is a partial"),
            (functions.Kitchen().bake, "it is bound to one object"),
            (functions.Kitchen(), "it is an object, not a function"),
        ],
    )
    def test_what_no_other_process_could_find_is_refused(self, what: Callable[..., Any], why: str) -> None:
        """At submit, with what to do instead."""
        with pytest.raises(NotImportable, match=why):
            self.manager.submit(what)
        assert self.manager.get_stats()["total"] == 0

    def test_a_closure_is_refused(self) -> None:
        """It exists in this process only."""

        def inner() -> None:
            """Never runs."""

        with pytest.raises(NotImportable, match="defined inside another function"):
            self.manager.submit(inner)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"max_retries": -1}, "max_retries is -1"),
            ({"timeout": 0}, "timeout is 0"),
            ({"timeout": float("nan")}, "timeout is nan"),
            ({"timeout": float("inf")}, "timeout is inf"),
            ({"timeout": 1e-9}, "timeout is 1e-09"),
            ({"priority": 2**70}, "priority is"),
            ({"priority": "high"}, "priority is 'high'"),
            ({"tags": "vip"}, "tags is the text 'vip'"),
            ({"pool": "fibre"}, "pool is 'fibre'"),
            ({"durability": "some"}, "durability is 'some'"),
            ({"task_id": "7"}, "task_id is '7'"),
            ({"unique_key": ""}, "unique_key is ''"),
            ({"limit_key": 7}, "limit_key is 7; it must be a text of 1 to 200 characters"),
        ],
    )
    def test_an_option_that_makes_no_sense_is_refused(self, options: dict[str, Any], words: str) -> None:
        """At submit, by name; nothing is stored."""
        with pytest.raises(UsageError, match=words):
            self.manager.options(**options).submit(self.functions.echo)
        assert self.manager.get_stats()["total"] == 0

    def test_an_option_that_is_a_parameter_too_is_refused(self) -> None:
        """The caller says which is meant."""
        with pytest.raises(UsageError, match="both an option of submit_task and a parameter of"):
            self.manager.submit_task(named, name="x")
        assert self.run(named, "x").result == "x"

    # Retries

    def test_a_failing_function_is_tried_again(self) -> None:
        """With a wait in between, until it succeeds."""
        found = self.run(self.functions.fail_before_attempt, 2)
        assert (found.status, found.result, found.failures) == (TaskStatus.COMPLETED, 2, 1)
        assert [attempt.outcome.value for attempt in found.attempts] == ["failed", "completed"]

    def test_retries_stop_at_max_retries(self) -> None:
        """2 retries are 3 attempts."""
        found = self.run(self.functions.try_again_before_attempt, 99, max_retries=2)
        assert found.status is TaskStatus.FAILED
        assert [attempt.number for attempt in found.attempts] == [1, 2, 3]
        assert found.error is not None
        assert found.error.type == "Retry"

    def test_a_function_steers_by_what_it_returns(self) -> None:
        """Retry fails the attempt, Snooze does not, Cancel ends the task."""
        retried = self.run(self.functions.try_again_before_attempt, 3)
        assert (retried.result, retried.failures) == (3, 2)
        snoozed = self.run(self.functions.snooze_before_attempt, 3, 0.01, max_retries=0)
        assert (snoozed.result, snoozed.failures) == (3, 0)
        cancelled = self.run(self.functions.call_off, "sold out")
        assert cancelled.status is TaskStatus.CANCELLED
        assert str(cancelled.error) == "Cancel: sold out"

    @pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, 1e300, "soon"])
    def test_a_wait_that_makes_no_sense_fails_the_attempt(self, seconds: Any) -> None:
        """It is the function's error, and the worker lives on."""
        argument = seconds if isinstance(seconds, str) or seconds == seconds else float("nan")  # noqa: PLR0124
        found = self.run(self.functions.bad_wait, argument, max_retries=0)
        assert found.error is not None
        assert found.error.type == "UsageError"
        assert "Snooze(seconds=…) was given" in found.error.message
        assert self.run(self.functions.add, 1, 1).result == 2

    @pytest.mark.parametrize(
        ("kind", "attempts"), [("OSError", 3), ("TimeoutError", 3), ("FileNotFoundError", 1), ("ValueError", 1)]
    )
    def test_a_function_says_which_errors_are_worth_another_attempt(self, kind: str, attempts: int) -> None:
        """Subclasses count, and giving up comes before trying again."""
        found = self.run(self.functions.fail_of, kind, max_retries=2)
        assert (found.status, found.failures) == (TaskStatus.FAILED, attempts)
        assert found.error is not None
        assert found.error.type == kind

    def test_a_function_says_how_long_to_wait_before_another_attempt(self) -> None:
        """After an error, and when it asks for one without a time of its own; with one, that is kept."""
        for function, argument in ((self.functions.fail_until_next_year, "x"), (self.functions.ask_for_a_retry, None)):
            handle = self.manager.submit(function, argument)
            self.until(lambda handle=handle: handle.status is TaskStatus.RETRYING)  # type: ignore[misc]
            found = handle.task
            assert found.due_at - found.attempts[0].finished_at > timedelta(hours=1)
        assert self.run(self.functions.ask_for_a_retry, 0.0).result == 2

    def test_errors_of_one_cause_are_one_group(self) -> None:
        """Whatever they say; it is retried as one."""
        for message in ("a", "b"):
            self.run(self.functions.fail, message, max_retries=0)
        self.run(self.functions.fail_of, "ValueError")
        first, second = self.manager.failure_groups()
        assert (first.type, first.count, second.count) == ("ValueError", 2, 1)
        assert first.where == (f"{self.functions.__name__}:fail",)
        self.manager.pause_queue("default")
        assert self.manager.retry_tasks(TaskFilter(fingerprint=first.fingerprint)) == 2
        assert [group.fingerprint for group in self.manager.failure_groups()] == [second.fingerprint]

    def test_a_finished_task_runs_again_by_hand(self) -> None:
        """With all its retries."""
        found = self.run(self.functions.fail, "x", max_retries=0)
        assert self.manager.retry_task(found.id)
        again = self.manager.handle(found.id).wait(TIMEOUT_S)
        assert len(again.attempts) == 2

    # Cancelling

    def test_a_pending_task_is_cancelled_and_never_runs(self) -> None:
        """Its result is a TaskFailed that says so."""
        held = [self.busy(), self.busy()]
        handle = self.manager.submit(self.functions.echo, 1)
        assert handle.cancel()
        assert not handle.cancel()
        with pytest.raises(TaskFailed, match="cancelled: it never ran"):
            handle.result(TIMEOUT_S)
        for each in held:
            assert each.finish() == "released"

    def test_a_running_function_sees_that_it_should_stop(self) -> None:
        """Its task ends cancelled, whatever it returns."""
        said = self.signal("said")
        handle = self.manager.submit(self.functions.until_stopped, said.path)
        said.wait()
        assert handle.cancel()
        found = handle.wait(TIMEOUT_S)
        assert (found.status, found.result) == (TaskStatus.CANCELLED, None)

    def test_cancelling_one_task_leaves_its_neighbours_alone(self) -> None:
        """Also those that follow in the same slot, at once."""
        said = self.signal("said")
        handles = [self.manager.submit(self.functions.until_stopped, said.path) for _ in range(2)]
        following = [self.manager.submit(self.functions.add, n, 0) for n in range(20)]
        assert len({said.wait() for _ in handles}) >= 1
        for handle in handles:
            assert handle.cancel()
        assert [each.result(TIMEOUT_S) for each in following] == list(range(20))
        assert {len(each.task.attempts) for each in following} == {1}

    # Limits

    def test_a_timeout_ends_the_attempt(self) -> None:
        """It counts as a failure."""
        said = self.signal("said")
        found = self.run(self.functions.until_stopped, said.path, timeout=0.2, max_retries=0)
        assert found.status is TaskStatus.FAILED
        assert found.attempts[0].outcome is AttemptOutcome.TIMED_OUT
        assert found.error is not None
        assert found.error.type == "TimedOut"

    def test_a_higher_priority_starts_first(self) -> None:
        """Also when it was submitted last."""
        self.manager.pause_queue("line")
        said = self.signal("said")
        for priority in (TaskPriority.LOW, TaskPriority.NORMAL, TaskPriority.CRITICAL, TaskPriority.HIGH):
            self.manager.options(priority=priority, queue="line").submit(self.functions.say, said.path, priority.name)
        self.manager.shutdown()
        with self.open(max_workers=1, queues=["line"]) as self.manager:
            self.manager.resume_queue("line")
            assert [said.wait() for _ in range(4)] == ["CRITICAL", "HIGH", "NORMAL", "LOW"]

    def test_waiting_for_a_result_is_bounded(self) -> None:
        """WaitTimeout is a TimeoutError, and the task goes on."""
        held = self.busy()
        with pytest.raises(WaitTimeout, match="is still running after 0"):
            held.handle.result(0.01)
        with pytest.raises(TimeoutError):
            held.handle.result(0)
        assert held.finish() == "released"

    def test_a_scheduled_task_runs_when_it_is_due(self) -> None:
        """And not before."""
        due = datetime.now(UTC) + timedelta(seconds=0.3)
        found = self.run(self.functions.echo, 1, run_at=due)
        assert found.attempts[0].started_at is not None
        assert found.attempts[0].started_at >= due

    # What a function knows and says

    def test_a_function_knows_its_task(self) -> None:
        """Outside of a worker the same call is harmless."""
        assert functions.context_facts() == [None, "", 0, None, False]
        found = self.run(self.functions.context_facts, name="facts")
        assert found.result == [found.id, "facts", 1, found.id, False]

    @pytest.mark.parametrize("attempt", [1, 2])
    def test_a_function_knows_the_fire_time_that_it_was_made_for(self, attempt: int) -> None:
        """In the first attempt and in later ones; a task that no schedule made has none."""
        function = self.functions.fire_time_in_attempt
        self.manager.schedules.add(function, Schedule(every=3600), args=(attempt,), name="hourly")
        fire = self.manager.schedules.run_now("hourly")
        assert fire.task is not None
        assert self.manager.handle(fire.task).result(TIMEOUT_S) == ["hourly", fire.nominal]
        assert self.run(function, attempt).result == [None, None]

    def test_progress_can_be_read_while_it_runs(self) -> None:
        """And is gone afterwards."""
        said, released = self.signal("said"), self.signal("released")
        handle = self.manager.submit(self.functions.report_progress, said.path, released.path)
        said.wait()
        self.until(lambda: handle.task.progress is not None)
        assert handle.task.progress == {"done": 1, "total": 4, "phase": "first"}
        released.release()
        handle.result(TIMEOUT_S)
        assert handle.task.progress is None

    def entries(self) -> list[int]:
        """Return the amounts that ``credit`` has added."""
        with closing(sqlite3.connect(self.manager.database)) as connection:
            return [amount for (amount,) in connection.execute("SELECT amount FROM entry ORDER BY rowid")]

    def make_ledger(self) -> str:
        """Make the table of ``credit`` in the file that holds the tasks; return the file."""
        with closing(sqlite3.connect(self.manager.database)) as connection:
            connection.execute("CREATE TABLE entry (amount INTEGER)")
        return self.manager.database

    def test_effects_and_completion_are_one_transaction(self) -> None:
        """An attempt that fails inside leaves nothing; the one that succeeds leaves both, once."""
        ledger = self.make_ledger()
        found = self.run(self.functions.credit, ledger, 5)
        assert (found.result, self.entries()) == ("credited 5", [5])
        failed = self.run(self.functions.credit, ledger, 7, "inside", max_retries=0)
        assert (failed.status, self.entries()) == (TaskStatus.FAILED, [5])
        assert self.manager.retry_task(failed.id)
        again = self.manager.handle(failed.id).wait(TIMEOUT_S)
        assert (again.result, self.entries()) == ("credited 7", [5, 7])

    def test_what_is_committed_stands_whatever_the_function_does_then(self) -> None:
        """What it raises is only said; the slot is free again."""
        ledger = self.make_ledger()
        self.events.clear()
        for number in range(3):
            found = self.run(self.functions.credit, ledger, number, "after")
            assert found.result == f"credited {number}"
        self.until(lambda: sum(isinstance(event, EndedAfterCommit) for event in self.events) == 3)
        assert not any(isinstance(event, AttemptLost) for event in self.events)
        assert self.entries() == [0, 1, 2]
        task = self.manager.find_tasks()[0]
        assert [attempt.outcome for attempt in task.attempts] == [AttemptOutcome.COMPLETED]
        assert self.run(self.functions.add, 1, 1).result == 2

    def test_what_an_attempt_used_is_known_after_it_has_committed(self) -> None:
        """As for any other: its start and its end too."""
        handle = self.manager.submit(self.functions.credit, self.make_ledger(), 1, "after")
        handle.result(TIMEOUT_S)
        self.until(lambda: handle.task.attempts[0].started_at is not None)
        (attempt,) = handle.task.attempts
        assert (attempt.traces.cpu_s is None) == (self.worker_type == "async")

    def test_a_cancelled_task_commits_nothing(self) -> None:
        """Who cancelled was told that it will not complete."""
        said, released = self.signal("said"), self.signal("released")
        ledger = self.make_ledger()
        handle = self.manager.submit(self.functions.credit_when_released, ledger, said.path, released.path)
        said.wait()
        assert handle.cancel()
        released.release()
        assert handle.wait(TIMEOUT_S).status is TaskStatus.CANCELLED
        assert self.entries() == []

    def test_a_function_that_is_called_directly_commits_its_effects(self) -> None:
        """On any database: an ordinary callable stays one."""
        ledger = self.make_ledger()
        assert functions.credit(ledger, 3) == "dropped"
        assert asyncio.run(coroutines.credit(ledger, 4)) == "dropped"
        with pytest.raises(ValueError, match="too late"):
            functions.credit(ledger, 5, "after")
        assert self.entries() == [3, 4, 5]

    def test_strange_progress_harms_nobody(self) -> None:
        """What is not JSON is stored as text."""
        said, released = self.signal("said"), self.signal("released")
        handle = self.manager.submit(self.functions.strange_progress, said.path, released.path)
        said.wait()
        self.until(lambda: handle.task.progress is not None)
        assert handle.task.progress == {
            "done": 1,
            "total": 4,
            "loss": "nan",
            "where": "/tmp",  # noqa: S108
            "nested": {"1": [2, "inf"]},
        }
        released.release()
        assert handle.result(TIMEOUT_S) is None

    def test_a_step_is_done_once(self) -> None:
        """The next attempt gets what it returned; with other arguments it is done again."""
        log = self.tmp_path / "log"
        found = self.run(self.functions.two_steps, str(log), ["one", "one", "other"], 3)
        assert found.result == ["first", "other", {"a", "b"}]
        assert log.read_text().split() == ["first", "one", "other"]
        steps = self.manager.steps(found.id)
        assert [(step.name, step.attempt, step.result) for step in steps] == [
            ("first", 1, "first"),
            ("second", 3, "other"),
            ("set", 3, {"a", "b"}),
        ]

    def test_a_step_of_a_function_that_is_called_directly_is_just_done(self) -> None:
        """No task, no store, and the same function."""
        assert self.manager.steps("0" * 32) == []
        assert TaskContext().step("first", sorted, [2, 1]) == [1, 2]

    def test_a_completed_task_that_runs_again_does_its_steps_again(self) -> None:
        """A failed one goes on where it was."""
        log = self.tmp_path / "log"
        completed = self.run(self.functions.two_steps, str(log), ["one"], 1)
        assert self.manager.retry_task(completed.id)
        self.manager.handle(completed.id).wait(TIMEOUT_S)
        assert log.read_text().split() == ["first", "one"] * 2
        failed = self.run(self.functions.two_steps, str(log), ["two"], 2, max_retries=0)
        assert self.manager.retry_task(failed.id)
        assert self.manager.handle(failed.id).result(TIMEOUT_S) == ["first", "two", {"a", "b"}]
        assert log.read_text().split() == [*["first", "one"] * 2, "first", "two"]

    def test_a_step_that_cannot_be_kept_fails_the_attempt(self) -> None:
        """And says what to do."""
        found = self.run(self.functions.step_with_a_coroutine, max_retries=0)
        assert "await current_task().astep" in str(found.error)

    def test_a_limited_queue_runs_no_more_at_once(self) -> None:
        """All its tasks run, never more than two of them together, in whichever order they end."""
        log, said = self.tmp_path / "log", self.signal("said")
        self.manager.limit_queue("line", concurrency=2)
        line = self.manager.options(queue="line")
        handles = [line.submit(self.functions.log_run, str(log), said.path, 0.01) for _ in range(8)]
        for handle in handles:
            handle.result(TIMEOUT_S)
        running, most = 0, 0
        for entry in log.read_text().splitlines():
            running += 1 if entry.startswith("start") else -1
            most = max(most, running)
        assert most <= 2
        (queue,) = self.manager.queues()
        assert queue.limits == QueueLimits(concurrency=2)

    def test_of_one_limit_key_one_task_runs_at_a_time(self) -> None:
        """Or as many as is said of it; all of them run, and nobody waits for them."""
        log, said = self.tmp_path / "log", self.signal("said")
        self.manager.limit_key("wide", 2)
        keys: dict[str, str] = {}
        for _ in range(6):
            for key in ("narrow", "wide"):
                submitter = self.manager.options(limit_key=key)
                keys[submitter.submit(self.functions.log_run, str(log), said.path, 0.01).id] = key
        self.manager.submit(self.functions.echo, "at once").result(TIMEOUT_S)
        for task_id in keys:
            self.manager.handle(task_id).result(TIMEOUT_S)
        running, most = Counter[str](), Counter[str]()
        for entry in log.read_text().splitlines():
            what, task_id, *_ = entry.split()
            running[keys[task_id]] += 1 if what == "start" else -1
            most |= running
        assert most["narrow"] == 1
        assert most["wide"] <= 2

    def test_why_a_task_waits_for_its_limit_key(self) -> None:
        """Until what runs has ended, or the key may run more."""
        held = self.busy(limit_key="customer-7")
        waiting = self.manager.options(limit_key="customer-7").submit(self.functions.echo, "then")
        (limited,) = [reason for reason in self.manager.why(waiting.id) if reason.code is ReasonCode.KEY_LIMITED]
        assert limited.facts == {"key": "customer-7", "concurrency": 1, "tasks": [held.handle.id]}
        assert self.manager.get_task_status(waiting.id) is TaskStatus.PENDING
        self.manager.limit_key("customer-7", 2)
        assert waiting.result(TIMEOUT_S) == "then"
        (shown,) = self.manager.limit_keys()
        assert (shown.key, shown.running, shown.concurrency, shown.pending) == ("customer-7", 1, 2, 0)
        with pytest.raises(UsageError, match="concurrency is 0; it must be 1 or more"):
            self.manager.limit_key("customer-7", 0)

    def test_stats_count_what_there_is(self) -> None:
        """A count for each status under its word, and the sums."""
        held = self.busy()
        self.manager.options(run_at=datetime.now(UTC) + timedelta(hours=1)).submit(self.functions.echo)
        stats = self.manager.get_stats()
        assert (stats["running"], stats["scheduled"], stats["total"], stats["queue_size"]) == (1, 1, 2, 1)
        slots = sum(slots for worker in self.manager.workers() for slots in worker.pools.values())
        assert (stats["workers"], stats["slots"], stats["busy"]) == (1, slots, 1)
        held.finish()

    def test_unknown_ids_are_answered(self) -> None:
        """None and False, not errors; a handle cannot be made."""
        assert self.manager.get_task("0" * 32) is None
        assert self.manager.get_task_status("0" * 32) is None
        assert not self.manager.cancel_task("0" * 32)
        with pytest.raises(TaskNotFound):
            self.manager.handle("0" * 32)

    def test_the_same_task_id_is_one_task(self) -> None:
        """Submitting again after an unknown outcome is safe."""
        submitter = self.manager.options(task_id="5" * 32)
        assert submitter.submit(self.functions.add, 1, 1).id == submitter.submit(self.functions.add, 2, 2).id
        assert submitter.submit(self.functions.add, 3, 3).result(TIMEOUT_S) == 2
        assert self.manager.get_stats()["total"] == 1

    # Unique keys

    def test_a_unique_key_makes_one_task_of_many_submits(self) -> None:
        """Each handle is of that task; when it has finished the key is free."""
        held = self.busy(unique_key="report-42")
        submitter = self.manager.options(unique_key="report-42")
        assert submitter.submit(self.functions.add, 1, 1).id == held.handle.id
        with pytest.raises(UniqueConflict, match=f"'report-42' is held by task {held.handle.id}"):
            self.manager.options(unique_key="report-42", on_conflict="error").submit(self.functions.add, 2, 2)
        held.finish()
        again = submitter.submit(self.functions.add, 3, 3)
        assert again.result(TIMEOUT_S) == 6
        assert again.task.unique_key == "report-42"
        assert self.manager.submit(self.functions.echo).task.unique_key is None
        found = self.manager.find_tasks(TaskFilter(unique_key="report-42"))
        assert [task.id for task in found] == [again.id, held.handle.id]

    def test_the_last_call_of_a_key_is_the_one_that_runs(self) -> None:
        """As long as it has not started."""
        self.manager.pause_queue("later")
        submitter = self.manager.options(unique_key="index", on_conflict="replace", queue="later")
        handles = [submitter.submit(self.functions.add, n, n) for n in range(3)]
        self.manager.resume_queue("later")
        assert {handle.result(TIMEOUT_S) for handle in handles} == {4}
        assert self.manager.get_stats()["total"] == 1

    @pytest.mark.parametrize("period", [3_600, timedelta(hours=1)])
    def test_a_unique_key_can_outlive_its_task(self, period: Any) -> None:
        """Then the submit leads to the finished task and its result."""
        submitter = self.manager.options(unique_key="bill-7", unique_for=period)
        first = submitter.submit(self.functions.add, 1, 1)
        assert first.result(TIMEOUT_S) == 2
        assert submitter.submit(self.functions.add, 5, 5).result(TIMEOUT_S) == 2
        assert self.manager.get_stats()["total"] == 1

    def test_many_calls_have_no_unique_key_in_common(self) -> None:
        """It would make one task of them; the message says what to do."""
        with pytest.raises(UsageError, match="Submit them one by one, each with a key of its own"):
            self.manager.options(unique_key="a").submit_many(self.functions.echo, [(), ()])
        assert self.manager.get_stats()["total"] == 0

    def test_a_submit_that_waits_for_room_leads_to_the_task_that_has_the_key(self) -> None:
        """It makes no task, so a full queue does not hold it up; in a coroutine neither."""
        self.manager.pause_queue("default")
        self.manager.queue_size = 1
        submitter = self.manager.options(unique_key="a", wait=TIMEOUT_S)
        first = submitter.submit(self.functions.add, 1, 1)
        assert submitter.submit(self.functions.add, 2, 2).id == first.id
        assert asyncio.run(submitter.asubmit(self.functions.add, 3, 3)).id == first.id
        self.manager.resume_queue("default")
        assert first.result(TIMEOUT_S) == 2

    def test_a_retry_whose_unique_key_is_taken_is_refused(self) -> None:
        """One by an error that names the task in its way; among many it is left out, and told."""
        first = self.run(self.functions.fail, "x", max_retries=0, unique_key="a")
        other = self.run(self.functions.fail, "y", max_retries=0)
        held = self.busy(unique_key="a")
        with pytest.raises(UniqueConflict, match=held.handle.id):
            self.manager.retry_task(first.id)
        told: dict[str, str] = {}
        failed = TaskFilter(statuses=frozenset({TaskStatus.FAILED}))
        assert self.manager.retry_tasks(failed, refused=lambda task_id, why: told.update({task_id: why.task_id})) == 1
        assert told == {first.id: held.handle.id}
        assert len(self.manager.handle(other.id).wait(TIMEOUT_S).attempts) == 2
        held.finish()
        assert self.manager.retry_task(first.id)

    def test_many_calls_are_one_commit(self) -> None:
        """Ids come back in order."""
        ids = self.manager.submit_many(self.functions.add, [(n, 1) for n in range(50)])
        assert [self.manager.handle(task_id).result(TIMEOUT_S) for task_id in ids] == list(range(1, 51))
        assert self.manager.submit_many(self.functions.add, []) == []

    # Coroutines

    def test_coroutines_submit_and_wait(self) -> None:
        """All twins do what they are the twins of."""

        async def work() -> list[Any]:
            manager = self.manager
            handle = await manager.asubmit(self.functions.add, 1, second=1)
            task_id = await manager.asubmit_task(self.functions.add, 2, 2, name="sum")
            ids = await manager.asubmit_many(self.functions.add, [(3, 3), (4, 4)])
            submitter = manager.options(name="mine")
            handles = [handle, *map(manager.handle, [task_id, *ids]), await submitter.asubmit(self.functions.add, 5, 5)]
            handles += map(manager.handle, await submitter.asubmit_many(self.functions.add, [(6, 6)]))
            results = [await each.aresult(TIMEOUT_S) for each in handles]
            task = await manager.aget_task(task_id)
            return [*results, task and task.name, (await handles[-1].afinished()).name, await handle.acancel()]

        assert asyncio.run(work()) == [2, 4, 6, 8, 10, 12, "sum", "mine", False]

    def test_coroutines_see_errors_and_time_limits(self) -> None:
        """The same as threads do."""
        held = self.busy()

        async def work() -> None:
            failing = await self.manager.options(max_retries=0).asubmit(self.functions.fail, "no such customer")
            with pytest.raises(TaskFailed, match="ValueError: no such customer"):
                await failing.aresult(TIMEOUT_S)
            assert (await failing.afinished()).status is TaskStatus.FAILED
            with pytest.raises(WaitTimeout, match="is still running after 0"):
                await held.handle.aresult(0.01)
            with pytest.raises(WaitTimeout):
                await held.handle.afinished(0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await held.handle.aresult()
            with pytest.raises(NotImportable):
                await self.manager.asubmit(lambda: None)
            with pytest.raises(UsageError, match="both an option of submit_task"):
                await self.manager.asubmit_task(named, name="x")
            with pytest.raises(TaskNotFound):
                await TaskHandle[None](self.manager, "0" * 32).aresult()

        asyncio.run(work())
        assert held.finish() == "released"

    def test_a_coroutine_that_waits_can_be_cancelled(self) -> None:
        """The task goes on, and others who wait for it too."""
        held = self.busy()

        async def work() -> str:
            impatient, patient = (asyncio.create_task(held.handle.aresult(TIMEOUT_S)) for _ in range(2))
            await asyncio.sleep(0.05)
            impatient.cancel()
            with pytest.raises(asyncio.CancelledError):
                await impatient
            held.released.release()
            return await patient

        assert asyncio.run(work()) == "released"

    def test_many_coroutines_wait_without_threads_of_their_own(self) -> None:
        """A thousand of them, for tasks that end one after another."""
        self.manager.pause_queue("line")
        ids = self.manager.options(queue="line").submit_many(self.functions.add, [(n, 1) for n in range(1_000)])
        self.manager.pause_queue("other")
        never = self.manager.options(queue="other").submit(self.functions.echo)

        async def work() -> list[float]:
            others = asyncio.create_task(never.aresult())
            waiting = [asyncio.create_task(self.manager.handle(each).aresult(TIMEOUT_S)) for each in ids]
            await asyncio.sleep(0.2)
            assert threading.active_count() < 50
            self.manager.resume_queue("line")
            results = await asyncio.gather(*waiting)
            others.cancel()
            return results

        assert asyncio.run(work()) == list(range(1, 1_001))

    def test_a_manager_may_be_closed_by_a_coroutine(self) -> None:
        """Leaving ``async with`` waits for the work in hand, and who waits for the rest is told."""
        self.manager.shutdown()

        async def work() -> None:
            async with self.open() as manager:
                done = await manager.asubmit(self.functions.add, 1, 1)
                assert await done.aresult(TIMEOUT_S) == 2
                manager.pause_queue("later")
                later = await manager.options(queue="later").asubmit(self.functions.echo)
                waiting = asyncio.create_task(later.aresult())
                await asyncio.sleep(0.05)
            with pytest.raises(StoreError, match="was closed by this process"):
                await waiting

        asyncio.run(work())

    # A full queue

    def test_a_submit_waits_for_room(self) -> None:
        """First come, first served; room comes when a task is claimed or cancelled."""
        held = [self.busy(), self.busy()]
        self.manager.queue_size = 1
        waiting = self.manager.submit(self.functions.add, 0, 0)
        order: list[int] = []

        def submit(number: int) -> None:
            self.manager.options(wait=TIMEOUT_S).submit(self.functions.add, number, 0)
            order.append(number)

        threads = [threading.Thread(target=submit, args=[number]) for number in range(1, 6)]
        for number, thread in enumerate(threads, 1):
            thread.start()
            self.until(lambda number=number: len(self.manager._line._line) == number)  # type: ignore[misc]  # noqa: SLF001
        assert order == []
        assert waiting.cancel()
        self.until(lambda: order == [1])
        for each in held:
            each.finish()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert order == [1, 2, 3, 4, 5]
        assert self.manager.shutdown(drain=True)

    def test_a_wait_for_room_is_bounded(self) -> None:
        """QueueFull says how long; without a wait, and for what can never fit, it comes at once."""
        self.manager.pause_queue("default")
        self.manager.queue_size = 1
        self.manager.submit(self.functions.echo)
        with pytest.raises(QueueFull, match=r"queue_size is 1 after waiting 0\.05 s"):
            self.manager.options(wait=0.05).submit(self.functions.echo)
        with pytest.raises(QueueFull, match="queue_size is 1; nothing"):
            self.manager.options(wait=0).submit(self.functions.echo)
        with pytest.raises(QueueFull, match="queue_size is 1; nothing"):
            self.manager.options(wait=TIMEOUT_S).submit_many(self.functions.echo, [(), ()])
        for seconds in (-1, float("nan"), float("inf")):
            with pytest.raises(UsageError, match="wait is"):
                self.manager.options(wait=seconds)
        assert self.manager.get_stats()["total"] == 1

    def test_coroutines_wait_for_room(self) -> None:
        """Bounded, cancellable, and without blocking the event loop."""
        self.manager.pause_queue("default")
        self.manager.queue_size = 1
        self.manager.submit(self.functions.echo)
        patient = self.manager.options(wait=TIMEOUT_S)

        async def work() -> list[Any]:
            with pytest.raises(QueueFull, match=r"after waiting 0\.05 s"):
                await self.manager.options(wait=0.05).asubmit(self.functions.echo)
            impatient = asyncio.create_task(patient.asubmit(self.functions.echo))
            await asyncio.sleep(0.05)
            waiting = [asyncio.create_task(patient.asubmit(self.functions.add, n, 1)) for n in range(20)]
            await asyncio.sleep(0.05)
            impatient.cancel()
            self.manager.resume_queue("default")
            return [await (await each).aresult(TIMEOUT_S) for each in waiting]

        assert asyncio.run(work()) == list(range(1, 21))
        assert self.manager.get_stats()["total"] == 21

    # Functions that moved

    def test_a_task_of_a_function_that_moved_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Under its new name, with arguments of classes that moved too, from one name to the next."""
        names = [f"shop_{self.worker_type}_{age}" for age in ("old", "newer", "newest")]
        monkeypatch.syspath_prepend(self.tmp_path)
        self.manager.pause_queue("later")
        module = self.module(names[0], "send", "Colour")
        handle = self.manager.options(queue="later").submit(module.send, module.Colour.RED)
        self.manager.shutdown()
        (self.tmp_path / f"{names[0]}.py").unlink()
        del sys.modules[names[0]]
        self.module(names[2], "send_mail", "Tint")
        moved = {
            f"{names[0]}:send": f"{names[1]}:send",
            f"{names[1]}:send": f"{names[2]}:send_mail",
            f"{names[0]}:Colour": f"{names[2]}:Tint",
        }
        with self.open(aliases=moved) as self.manager:
            self.manager.resume_queue("later")
            assert self.manager.handle(handle.id).result(TIMEOUT_S) == "sent Tint.RED"

    def module(self, name: str, function: str, enum: str) -> Any:
        """Make a module with a function and an enum, and import it."""
        code = f"class {enum}(enum.Enum):\n    RED = 1\n\ndef {function}(value):\n    return f'sent {{value}}'\n"
        (self.tmp_path / f"{name}.py").write_text(f"import enum\n\n{code}")
        importlib.invalidate_caches()
        return importlib.import_module(name)

    # Functions that are not there

    def shop(self, code: str) -> Path:
        """Make the module ``shop_…`` with a function ``send``; returns its file."""
        path = self.tmp_path / f"shop_{self.worker_type}.py"
        define = "async def" if self.worker_type == "async" else "def"
        path.write_text(code.replace("def", define))
        sys.modules.pop(path.stem, None)
        importlib.invalidate_caches()
        return path

    def submit_to_shop(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> TaskHandle[Any]:
        """Store a call of its function from where it is there; no worker runs."""
        monkeypatch.syspath_prepend(self.tmp_path)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        self.manager.shutdown()
        send = importlib.import_module(self.shop(SEND).stem).send
        with self.open(start=False) as self.manager:
            return self.manager.options(**options).submit(send, "a letter")

    @pytest.mark.parametrize(("code", "error"), [(None, "ModuleNotFoundError"), ("SENDER = 1\n", "AttributeError")])
    def test_a_task_waits_for_a_worker_that_can_find_its_function(
        self, monkeypatch: pytest.MonkeyPatch, code: str | None, error: str
    ) -> None:
        """One that cannot gives it back uncounted and says how it failed; it goes on with other tasks."""
        task_id = self.submit_to_shop(monkeypatch).id
        path = self.shop(code or "")
        if code is None:
            path.unlink()
        with self.open() as self.manager:
            self.until(lambda: self.unknown_to(task_id) != [])
            found = self.manager.handle(task_id).task
            assert (found.status, found.attempts, found.failures) == (TaskStatus.PENDING, (), 0)
            assert [each["error"].partition(":")[0] for each in self.unknown_to(task_id)] == [error]
            assert self.run(self.functions.add, 1, 2).result == 3
            assert self.manager.wait_until_drained(TIMEOUT_S)
        self.shop(SEND)
        with self.open() as self.manager:
            found = self.manager.handle(task_id).wait(TIMEOUT_S)
            assert (found.result, len(found.attempts)) == ("sent a letter", 1)

    def unknown_to(self, task_id: str) -> Any:
        """Return which workers cannot find its function."""
        reasons = self.manager.why(task_id)
        return next((each.facts["workers"] for each in reasons if each.code is ReasonCode.UNKNOWN_FUNCTION), [])

    def test_a_function_that_is_installed_later_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The worker looks again after a while."""
        monkeypatch.setattr(unknown, "TRY_AGAIN_S", 0.0)
        task_id = self.submit_to_shop(monkeypatch).id
        path = self.shop(SEND)
        path.rename(path.with_suffix(".not-yet"))
        with self.open() as self.manager:
            self.until(lambda: self.unknown_to(task_id) != [])
            path.with_suffix(".not-yet").rename(path)
            found = self.manager.handle(task_id).wait(TIMEOUT_S)
            assert (found.result, len(found.attempts)) == ("sent a letter", 1)

    def test_a_task_fails_when_no_worker_finds_its_function_in_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the error, although it has retries left; so do all that have waited for as long."""
        task_id = self.submit_to_shop(monkeypatch).id
        self.shop("").unlink()
        with self.open(unknown_after_hours=0) as self.manager:
            found = self.manager.handle(task_id).wait(TIMEOUT_S)
        assert found.status is TaskStatus.FAILED
        assert [str(attempt.error) for attempt in found.attempts] == [
            f"ModuleNotFoundError: No module named 'shop_{self.worker_type}'"
        ]

    def test_a_module_that_fails_while_it_is_imported_fails_its_task(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is there, so that is an error like any other, with its traceback."""
        task_id = self.submit_to_shop(monkeypatch, max_retries=0).id
        self.shop("import no_such_module_of_the_shop\n")
        with self.open() as self.manager:
            found = self.manager.handle(task_id).wait(TIMEOUT_S)
        assert found.status is TaskStatus.FAILED
        assert found.error is not None
        assert found.error.type == "ModuleNotFoundError"
        assert found.error.traceback is not None
        assert "import no_such_module_of_the_shop" in found.error.traceback

    # Many at once, and why

    def test_many_tasks_are_changed_at_once(self) -> None:
        """Counted, cancelled, run again and deleted by a filter; the rest stays as it is."""
        self.manager.pause_queue("line")
        waiting = [self.manager.options(queue="line").submit(self.functions.add, n, 1) for n in range(5)]
        other = self.run(self.functions.echo, 1)
        line = TaskFilter(queue="line")
        assert self.manager.count_tasks(line)[TaskStatus.PENDING] == 5
        assert self.manager.cancel_tasks(line) == 5
        assert {handle.status for handle in waiting} == {TaskStatus.CANCELLED}
        assert self.manager.retry_tasks(line) == 5
        self.manager.resume_queue("line")
        assert [handle.result(TIMEOUT_S) for handle in waiting] == [1, 2, 3, 4, 5]
        assert self.manager.delete_tasks(line) == 5
        assert self.manager.get_stats()["total"] == 1
        assert self.manager.delete_task(other.id)
        assert not self.manager.delete_task(other.id)
        assert self.manager.get_stats()["total"] == 0

    def test_many_running_tasks_are_told_to_stop(self) -> None:
        """Their functions see it, as when they are cancelled one by one."""
        said = self.signal("said")
        handles = [self.manager.submit(self.functions.until_stopped, said.path) for _ in range(2)]
        assert len({said.wait() for _ in handles}) >= 1
        assert self.manager.cancel_tasks(TaskFilter(name="until_stopped")) == 2
        assert {handle.wait(TIMEOUT_S).status for handle in handles} == {TaskStatus.CANCELLED}

    def test_why_a_task_does_not_run(self) -> None:
        """The most telling reason first: paused, busy, in line, running, finished."""

        def codes(task_id: str) -> list[ReasonCode]:
            return [reason.code for reason in self.manager.why(task_id)]

        held = [self.busy(), self.busy()]
        assert codes(held[0].handle.id) == [ReasonCode.RUNNING]
        self.manager.pause_queue("mail")
        paused = self.manager.options(queue="mail").submit(self.functions.echo)
        assert codes(paused.id) == [ReasonCode.QUEUE_PAUSED]
        self.manager.pause_queue("default")
        first, second = (self.manager.submit(self.functions.echo) for _ in range(2))
        for each in held:
            each.finish()
        assert codes(held[0].handle.id) == [ReasonCode.FINISHED]
        self.manager.shutdown()
        with self.open(queues=["mail"]) as self.manager:
            self.manager.resume_queue("default")
            assert codes(first.id) == codes(second.id) == [ReasonCode.NO_WORKER_FOR_QUEUE]
        with self.open(start=False) as reader:
            assert [reason.code for reason in reader.why(first.id)] == [ReasonCode.NO_WORKER]
            with pytest.raises(TaskNotFound):
                reader.why("0" * 32)

    def test_finished_tasks_are_pruned_by_hand(self) -> None:
        """As many as the rules say; what is not finished stays, however old."""
        self.manager.shutdown()
        rules = PruningConfig(completed_days=0.0, failed_rows=1, enabled=False)
        with self.open(pruning=rules) as self.manager:
            self.manager.pause_queue("later")
            waiting = self.manager.options(queue="later").submit(self.functions.echo)
            done = [self.run(self.functions.add, 1, 1) for _ in range(3)]
            failed = [self.run(self.functions.fail, "x", max_retries=0) for _ in range(2)]
            counts = {TaskStatus.COMPLETED: 3, TaskStatus.FAILED: 1, TaskStatus.CANCELLED: 0}
            assert self.manager.prune(dry_run=True) == counts
            assert self.manager.get_stats()["total"] == 6
            assert self.manager.prune() == counts
            assert [self.manager.get_task(task.id) for task in [*done, failed[0]]] == [None] * 4
            assert self.manager.get_task_status(failed[1].id) is TaskStatus.FAILED
            assert self.manager.get_task_status(waiting.id) is TaskStatus.PENDING
            self.manager.delete_tasks(TaskFilter())
            space = self.manager.vacuum()
            assert space.after_bytes <= space.before_bytes

    # Ending

    def test_leaving_waits_for_the_work_in_hand_and_leaves_the_rest(self) -> None:
        """What runs ends, what waits stays on disk; the next manager does it."""
        held, said = self.busy(), self.signal("told")
        told = self.manager.submit(self.functions.until_stopped, said.path)
        said.wait()
        waiting = [self.manager.submit(self.functions.add, n, 1) for n in range(5)]
        stopping = threading.Thread(target=self.manager.shutdown)
        stopping.start()
        self.until(
            lambda: self.manager.get_task_status(told.id) is TaskStatus.COMPLETED
        )  # so nothing is begun any more
        held.released.release()
        stopping.join(TIMEOUT_S)
        with self.open(start=False) as reader:
            assert reader.get_task_status(held.handle.id) is TaskStatus.COMPLETED
            assert {reader.get_task_status(each.id) for each in waiting} == {TaskStatus.PENDING}
            assert {len(reader.handle(each.id).task.attempts) for each in waiting} == {0}
            assert reader.workers() == []
        with self.open() as self.manager:
            assert [self.manager.handle(each.id).result(TIMEOUT_S) for each in waiting] == [1, 2, 3, 4, 5]

    def test_held_it_begins_nothing_more(self) -> None:
        """What runs comes to its end; free slots, a submit here and time change nothing."""
        running = self.busy()
        self.manager.hold()
        waiting = [self.manager.submit(self.functions.echo, number) for number in range(5)]
        running.finish()
        self.manager.shutdown()
        with self.open(start=False) as reader:
            assert {reader.get_task_status(each.id) for each in waiting} == {TaskStatus.PENDING}

    def test_draining_empties_the_queue_first(self) -> None:
        """Everything that was submitted is done."""
        handles = [self.manager.submit(self.functions.add, n, 1) for n in range(40)]
        assert self.manager.shutdown(drain=True)
        with self.open(start=False) as reader:
            assert {reader.get_task_status(each.id) for each in handles} == {TaskStatus.COMPLETED}

    def test_draining_minds_its_own_queues_only(self) -> None:
        """What other workers are meant to do, and paused queues, are not waited for."""
        self.manager.shutdown()
        with self.open(queues=["ours"], max_workers=1) as self.manager:
            self.manager.options(queue="theirs").submit(self.functions.echo)
            done = self.manager.options(queue="ours").submit(self.functions.echo, 7)
            self.manager.shutdown(drain=True)
        with self.open(excluded_queues=["theirs"]) as self.manager:
            assert self.manager.handle(done.id).result() == 7
            self.manager.shutdown(drain=True)
        with self.open(start=False) as reader:
            assert reader.get_stats()["pending"] == 1

    def test_a_polite_function_ends_early_and_runs_again(self) -> None:
        """Snooze() at a shutdown uses up no retry."""
        said = self.signal("said")
        handle = self.manager.options(max_retries=0).submit(self.functions.snooze_when_stopped, said.path)
        said.wait()
        assert self.manager.shutdown()
        with self.open() as self.manager:
            said.wait()
            found = self.manager.handle(handle.id).task
            assert (found.status, found.failures) == (TaskStatus.RUNNING, 0)
            assert [attempt.outcome for attempt in found.attempts] == [AttemptOutcome.SNOOZED]

    def test_shutting_down_twice_is_harmless(self) -> None:
        """Also from two threads, and while another manager uses the file."""
        with self.open(start=False) as other:
            threads = [threading.Thread(target=self.manager.shutdown) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(TIMEOUT_S)
            assert self.manager.shutdown()
            assert other.submit(self.functions.echo).status is TaskStatus.PENDING

    def test_who_waits_is_told_when_the_manager_closes(self) -> None:
        """Instead of waiting for ever."""
        self.manager.pause_queue("later")
        handle = self.manager.options(queue="later").submit(self.functions.echo)
        problems: list[BaseException] = []

        def wait() -> None:
            try:
                handle.result()
            except Exception as error:  # noqa: BLE001  # handed to the test's own thread
                problems.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        self.manager.shutdown()
        waiting.join(TIMEOUT_S)
        assert [str(problem) for problem in problems] == [
            f"{self.manager.database} was closed by this process; open a new manager"
        ]

    def test_several_managers_share_a_file_in_one_process(self) -> None:
        """Each has its own worker, and no task runs twice."""
        with self.open() as second:
            assert len(second.workers()) == 2
            managers = (self.manager, second)
            handles = [manager.submit(self.functions.add, n, 0) for n in range(30) for manager in managers]
            assert [handle.result(TIMEOUT_S) for handle in handles] == [n for n in range(30) for _ in range(2)]
            assert {len(handle.task.attempts) for handle in handles} == {1}

    def test_a_manager_that_only_submits_leaves_the_work_to_others(self) -> None:
        """start=False starts nothing."""
        self.manager.shutdown()
        with self.open(start=False) as submitter:
            handle = submitter.submit(self.functions.add, 1, 1)
            assert submitter.workers() == []
            with self.open() as self.manager:
                assert handle.result(TIMEOUT_S) == 2

    def test_open_and_shut_leaves_no_descriptor(self) -> None:
        """As often as one likes, also with children and listeners."""
        self.manager.shutdown()
        counts = []
        for _ in range(4):
            with self.open(max_workers=1) as manager:
                assert manager.submit(self.functions.add, 1, 1).result(TIMEOUT_S) == 2
            counts.append(len(list(Path("/proc/self/fd").iterdir())))
        assert len(set(counts)) == 1


class Held:
    """A task that lasts until the test releases it."""

    def __init__(self, handle: TaskHandle[str], pid: int, released: Signal) -> None:
        self.handle = handle
        self.pid = pid
        self.released = released

    def finish(self) -> str:
        """Release it and return its result."""
        self.released.release()
        return self.handle.result(TIMEOUT_S)


class ProcessConformance(ManagerConformance):
    """What holds where functions run in processes of their own."""

    worker_type = "process"

    def gone(self, *pids: int) -> None:
        """Wait until these processes are gone."""
        for pid in pids:
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                try:
                    assert select.select([descriptor], [], [], TIMEOUT_S)[0], f"process {pid} is still there"
                finally:
                    os.close(descriptor)

    def family(self, **options: Any) -> tuple[TaskHandle[None], list[int]]:
        """Start a function that resists everything but SIGKILL, with a child of its own."""
        said = self.signal("family")
        handle = self.manager.options(max_retries=0, **options).submit(functions.stubborn_family, said.path)
        return handle, [int(pid) for pid in said.wait().split()]

    def test_functions_run_in_other_processes(self) -> None:
        """One for each slot, and used again."""
        held = [self.busy(), self.busy()]
        pids = {each.pid for each in held}
        for each in held:
            each.finish()
        again = [self.busy(), self.busy()]
        assert {each.pid for each in again} == pids
        assert os.getpid() not in pids
        for each in again:
            each.finish()

    def test_a_timeout_really_ends_the_work(self) -> None:
        """The process and what it started are gone; the slot works on with a new one."""
        handle, pids = self.family(timeout=0.5)
        assert handle.wait(TIMEOUT_S).attempts[0].outcome is AttemptOutcome.TIMED_OUT
        self.gone(*pids)
        assert self.run(functions.add, 1, 1).result == 2

    def test_cancelling_really_ends_the_work(self) -> None:
        """The process and what it started are gone."""
        handle, pids = self.family()
        assert handle.cancel()
        found = handle.wait(TIMEOUT_S)
        assert (found.status, found.attempts[0].outcome) == (TaskStatus.CANCELLED, AttemptOutcome.CANCELLED)
        self.gone(*pids)

    def test_a_shutdown_ends_what_does_not_end_by_itself(self) -> None:
        """It is interrupted, uses up no retry, and runs again."""
        handle, pids = self.family()
        assert self.manager.shutdown(timeout=0)
        self.gone(*pids)
        with self.open(start=False) as reader:
            found = reader.handle(handle.id).task
            assert (found.status, found.failures) == (TaskStatus.PENDING, 0)
            assert [attempt.outcome for attempt in found.attempts] == [AttemptOutcome.INTERRUPTED]

    def test_a_clean_up_that_fails_at_a_shutdown_is_an_interruption_still(self) -> None:
        """We ended it; that is no failure of the task."""
        said = self.signal("said")
        handle = self.manager.options(max_retries=0).submit(functions.fail_when_ended, said.path)
        said.wait()
        assert self.manager.shutdown(timeout=0)
        with self.open(start=False) as reader:
            found = reader.handle(handle.id).task
            assert (found.status, found.failures) == (TaskStatus.PENDING, 0)
            assert found.error is not None
            assert found.error.type == "Interrupted"

    @pytest.mark.parametrize(
        ("function", "argument", "words"),
        [
            (functions.exit_now, 3, "exited with status 3"),
            (functions.exit_now, 0, "exited with status 0"),
            (functions.kill_self, signal.SIGKILL, "was killed by SIGKILL"),
            (functions.segfault, None, "was killed by SIGSEGV"),
        ],
    )
    def test_a_task_whose_child_always_dies_fails_at_its_third_start(
        self, function: Callable[..., Any], argument: int | None, words: str
    ) -> None:
        """That uses up no retry. The reason is named, and the pool lives on."""
        found = self.run(function, *([] if argument is None else [int(argument)]), max_retries=7)
        assert found.status is TaskStatus.FAILED
        assert [attempt.outcome for attempt in found.attempts] == [
            AttemptOutcome.INTERRUPTED,
            AttemptOutcome.INTERRUPTED,
            AttemptOutcome.FAILED,
        ]
        assert found.failures == 1
        assert [str(attempt.error) for attempt in found.attempts] == [
            f"ProcessDied: the child process {words} (crash {number} in a row)" for number in (1, 2, 3)
        ]
        assert [self.run(functions.add, n, 0).result for n in range(4)] == [0, 1, 2, 3]

    def test_a_child_that_dies_idle_is_replaced(self) -> None:
        """Nobody's attempt is harmed."""
        held = [self.busy(), self.busy()]
        for each in held:
            each.finish()
            os.kill(each.pid, signal.SIGKILL)
            self.gone(each.pid)
        assert {self.run(functions.add, 1, 1).attempts[0].outcome for _ in range(6)} == {AttemptOutcome.COMPLETED}

    def test_children_are_gone_after_the_shutdown(self) -> None:
        """All of them."""
        held = [self.busy(), self.busy()]
        for each in held:
            each.finish()
        self.manager.shutdown()
        self.gone(*(each.pid for each in held))

    def test_a_child_that_cannot_be_started_is_a_recorded_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And leaves no socket behind."""
        self.run(functions.exit_now, 0, max_retries=0)
        before = len(list(Path("/proc/self/fd").iterdir()))
        with monkeypatch.context() as patch:
            patch.setattr("sys.executable", str(self.tmp_path / "no-such-python"))
            found = self.run(functions.add, 1, 1, max_retries=0)
        assert found.error is not None
        assert found.error.type == "NoProcess"
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert self.run(functions.add, 1, 1).result == 2


def named(name: str) -> str:
    """A function with a parameter that is an option too."""
    return name
