"""`thirdshift tasks cancel|retry|delete`: some tasks by their ids, or many by a filter, which is counted first."""

import json

import pytest


@pytest.fixture
def mixed(shell, work) -> dict[str, list[str]]:
    """Ids by status: three failed tasks and two completed ones of the queue mail, one that waits."""
    failed = [shell.submit("functions:fail", "no", "--max-retries", "0", "--queue", "mail") for _ in range(3)]
    completed = [shell.submit("functions:add", "1", "--queue", "mail", "--tag", "vip") for _ in range(2)]
    manager = work()
    for task_id in [*failed, *completed]:
        manager.handle(task_id).wait(timeout=120)
    manager.shutdown()
    return {"failed": failed, "completed": completed, "pending": [shell.submit("functions:add", "2")]}


def test_all_that_match_are_retried(shell, mixed) -> None:
    """With --yes at once; the answer says how many of what."""
    done = shell("tasks", "retry", "--status", "failed", "--yes")
    assert (done.returncode, done.stdout) == (0, "retried 3 of 3 tasks (3 failed)\n")
    assert {shell.json("tasks", "show", task_id)["status"] for task_id in mixed["failed"]} == {"pending"}
    again = shell("tasks", "retry", "--status", "failed", "--yes")
    assert (again.returncode, again.stdout) == (0, "no task matches; nothing to retry\n")


def test_numbers_as_json(shell, mixed) -> None:
    """What matched under each status, and how many were changed."""
    assert shell.json("tasks", "delete", "--queue", "mail", "--yes") == {
        "matched": 5,
        "counts": {"completed": 2, "failed": 3},
        "deleted": 5,
    }
    assert shell.json("tasks", "cancel", "--name", "add", "--yes") == {
        "matched": 1,
        "counts": {"pending": 1},
        "cancelled": 1,
    }
    assert shell.json("tasks", "retry", "--tag", "vip", "--yes") == {"matched": 0, "counts": {}, "retried": 0}


def test_nothing_is_done_in_a_pipe_without_yes(shell, mixed) -> None:
    """The numbers stand in the message, and how to go on."""
    for options in ([], ["--json"]):
        done = shell(*options, "tasks", "delete", "--queue", "mail")
        assert (done.returncode, done.stdout) == (64, "")
        assert "this would delete 5 tasks (2 completed, 3 failed); nothing was changed. Say --yes" in done.stderr
    assert len(shell.json("tasks", "list", "--queue", "mail")) == 5


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 130, 3), ("\n", 130, 3)])
def test_a_person_is_asked(shell, mixed, answer: str, code: int, left: int) -> None:
    """With the numbers; only a yes is a yes."""
    returncode, printed, asked = shell.on_a_terminal(answer, "tasks", "delete", "--status", "failed")
    assert "delete 3 tasks (3 failed)? [y/N]" in asked
    assert (returncode, printed) == (code, "deleted 3 of 3 tasks (3 failed)\n" if code == 0 else "")
    assert len(shell.json("tasks", "list", "--status", "failed")) == left


def test_age_means_the_end_of_finished_tasks_and_the_submit_of_others(shell, mixed) -> None:
    """Nothing here is an hour old."""
    assert shell.json("tasks", "delete", "--older-than", "1h", "--yes")["matched"] == 0
    assert shell.json("tasks", "cancel", "--older-than", "1d", "--yes")["matched"] == 0
    assert shell.json("tasks", "cancel", "--older-than", "0s", "--yes")["matched"] == 1
    assert shell.json("tasks", "delete", "--older-than", "0min", "--yes")["matched"] == 6


def test_several_ids(shell, mixed) -> None:
    """Each has its line; the exit code is 1 when one was left as it is."""
    first, second, _ = mixed["failed"]
    assert shell("tasks", "retry", first, second).stdout == f"{first} retried\n{second} retried\n"
    done = shell("tasks", "delete", mixed["completed"][0], first, "0" * 32)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{mixed['completed'][0]} deleted",
        f"{first} was not deleted: it is pending; unfinished tasks are never deleted, cancel them first",
        f"{'0' * 32} was not deleted: there is no such task",
    ]
    assert shell.json("tasks", "cancel", first, second) == {
        "ids": 2,
        "cancelled": 2,
        "tasks": [{"id": task_id, "cancelled": True, "status": "cancelled"} for task_id in (first, second)],
    }


def test_one_task_is_deleted(shell, mixed) -> None:
    """It is gone; another time there is no such task."""
    (task_id, _) = mixed["completed"]
    assert shell.json("tasks", "delete", task_id) == {"id": task_id, "deleted": True, "status": None}
    again = shell("tasks", "delete", task_id)
    assert (again.returncode, again.stdout) == (1, "")
    assert f"no task has the id '{task_id}'" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["delete"], "Name the tasks to delete by their ids, or choose them by --status"),
        (["retry", "--yes"], "Name the tasks to retry by their ids"),
        (["cancel", "0" * 32, "--queue", "mail"], "not both"),
        (["delete", "--status", "running", "--yes"], "running: unfinished tasks are never deleted, cancel them first"),
        (["retry", "--status", "pending", "--status", "failed"], "pending: unfinished tasks have their turn coming"),
        (["cancel", "--status", "completed"], "completed: finished tasks cannot be cancelled"),
        (["delete", "--older-than", "soon"], "'soon' is no span of time; write 90s, 30min, 12h or 7d"),
        (["delete", "--older-than", "99999d"], "'99999d' is longer than a hundred years"),
        (["cancel", "--status", "happy"], "'happy' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_choice_is_told(shell, arguments: list[str], words: str) -> None:
    """Exit code 64; nothing is changed, and no database is made."""
    done = shell("tasks", *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert words in " ".join(done.stderr.split())
    assert not shell.database.exists()


def test_very_many_tasks_show_their_progress_on_a_terminal_only(shell) -> None:
    """A line that is gone afterwards; in a pipe nothing."""
    from thirdshift import BackgroundTaskManager
    from thirdshift.testing import functions

    with BackgroundTaskManager(database=shell.database, start=False) as manager:
        manager.submit_many(functions.add, [(n, 1) for n in range(3_000)])
    returncode, printed, shown = shell.on_a_terminal("", "tasks", "cancel", "--status", "pending", "--yes")
    assert (returncode, printed) == (0, "cancelled 3,000 of 3,000 tasks (3,000 pending)\n")
    assert "3000/3000" in shown
    done = shell("--json", "tasks", "retry", "--status", "cancelled", "--yes")
    assert (json.loads(done.stdout)["retried"], done.stderr) == (3_000, "")
