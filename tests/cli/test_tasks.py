"""`thirdshift tasks`: look at tasks, cancel and retry them."""

import json
import subprocess
import sys
import time

import pytest

from thirdshift.testing import functions


@pytest.fixture
def failed(shell, work) -> str:
    """The id of a task that failed for good."""
    task_id = shell.submit("functions:fail", "no way", "--max-retries", "0", "--queue", "mail", "--tag", "urgent")
    work().handle(task_id).wait(timeout=120)
    return task_id


def test_a_list_is_lines_with_tabs_in_a_pipe(shell, failed: str) -> None:
    """Columns first, no colours, one task a line; with --json it is one document."""
    shell.submit("functions:add", "1", "--queue", "later")
    lines = shell("tasks", "list").stdout.splitlines()
    assert lines[0].split("\t") == ["id", "name", "queue", "status", "submitted", "attempts", "error"]
    row = next(line.split("\t") for line in lines if line.startswith(failed))
    assert (row[1:4], row[5:]) == (["fail", "mail", "failed"], ["1", "ValueError: no way"])
    assert "\x1b" not in "".join(lines)
    assert {task["name"] for task in shell.json("tasks", "list")} == {"fail", "add"}


def test_a_list_can_be_narrowed(shell, failed: str) -> None:
    """By status, queue, name, tag and number."""
    shell.submit("functions:add", "1")
    for narrow in (["--status", "failed"], ["--queue", "mail"], ["--name", "fail"], ["--tag", "urgent"]):
        assert [task["id"] for task in shell.json("tasks", "list", *narrow)] == [failed], narrow
    assert len(shell.json("tasks", "list", "--limit", "1")) == 1
    assert shell.json("tasks", "list", "--queue", "nowhere") == []


def test_one_task_is_shown_with_its_attempts(shell, failed: str) -> None:
    """Call, status, error and traceback."""
    human = shell("tasks", "show", failed)
    assert human.returncode == 0
    assert "functions:fail('no way')" in human.stdout
    assert "1: failed after" in human.stdout
    assert "ValueError: no way" in human.stdout
    (attempt,) = shell.json("tasks", "show", failed)["attempts"]
    assert (attempt["outcome"], attempt["error"]["type"]) == ("failed", "ValueError")
    assert "Traceback" in attempt["traceback"]


def test_what_an_attempt_used_and_wrote_is_shown(shell, work) -> None:
    """Each text under its title; what a pool cannot measure is said to be not measured."""
    ids = [shell.submit("functions:speak", "--pool", pool) for pool in ("process", "thread")]
    for task_id in ids:
        work().handle(task_id).wait(timeout=120)
    process, thread = (shell("tasks", "show", task_id).stdout for task_id in ids)
    assert "standard output:\nprinted\n" in process
    assert "INFO thirdshift.task: logged" in process
    assert "MiB" in process
    assert "not measured" not in process
    assert "standard output" not in thread
    assert "INFO thirdshift.task: logged" in thread
    assert "peak memory" in thread
    assert "not measured" in thread
    attempts = [shell.json("tasks", "show", task_id)["attempts"][0] for task_id in ids]
    assert [attempt["stdout"] for attempt in attempts] == ["printed\n", None]
    assert attempts[0]["peak_memory_bytes"] > attempts[0]["cpu_s"] > 0
    assert attempts[1]["peak_memory_bytes"] is None


def test_results_that_json_has_no_form_for(shell, work) -> None:
    """The document is JSON that any reader takes."""
    task_id = shell.submit("functions:numbers")
    work().handle(task_id).wait(timeout=120)
    done = shell("--json", "tasks", "show", task_id)
    task = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert task["result"] == {"infinite": "inf", "none": "nan", "pair": [1, [2]]}
    assert "'infinite': inf" in shell("tasks", "show", task_id).stdout


def test_arguments_of_a_class_that_is_not_here(shell) -> None:
    """`tasks show` does not know the application's folder; it says so instead of failing."""
    script = """
import sys
from functions import Letter, read
from thirdshift import BackgroundTaskManager
with BackgroundTaskManager(database=sys.argv[1], start=False) as manager:
    print(manager.submit_task(read, Letter("Ada")))
"""
    command = [sys.executable, "-c", script, str(shell.database)]
    submitted = subprocess.run(command, capture_output=True, text=True, check=True, cwd=shell.folder)
    task_id = submitted.stdout.strip()
    done = shell("tasks", "show", task_id)
    assert done.returncode == 0, done.stderr
    assert "class that cannot be imported here" in done.stdout
    assert "cannot be imported here" in shell.json("tasks", "show", task_id)["arguments"]


def test_failures_by_their_cause(shell, work) -> None:
    """One line for each, the largest first; one of them is retried alone, by its fingerprint."""
    failing = [shell.submit("functions:fail", text, "--max-retries", "0", "--queue", "mail") for text in ("a", "b")]
    other = shell.submit("functions:add", "1", json.dumps("x"), "--max-retries", "0")
    manager = work()
    for task_id in (*failing, other):
        manager.handle(task_id).wait(timeout=120)
    manager.shutdown()
    head, first, second = shell("tasks", "failures").stdout.splitlines()
    assert head.split("\t") == ["tasks", "fingerprint", "last", "first", "example", "message"]
    count, fingerprint, _, _, example, message = first.split("\t")
    assert (count, fingerprint, example, message) == ("2", "ValueError@functions:fail", failing[1], "b")
    assert second.split("\t")[:2] == ["1", "TypeError@functions:add"]
    (group,) = shell.json("tasks", "failures", "--queue", "mail")
    assert (group["fingerprint"], group["type"], group["where"]) == (fingerprint, "ValueError", ["functions:fail"])
    assert (group["count"], group["example"], group["message"]) == (2, failing[1], "b")
    error = shell.json("tasks", "show", example)["attempts"][0]["error"]
    assert error["fingerprint"] == fingerprint
    done = shell("tasks", "retry", "--fingerprint", fingerprint, "--yes")
    assert done.stdout == "retried 2 of 2 tasks (2 failed)\n"
    assert shell.json("tasks", "show", other)["status"] == "failed"
    assert len(shell.json("tasks", "failures")) == 1


def test_cancel_and_retry(shell) -> None:
    """Each says what became of the task; the second time there is nothing to do, and the exit code is 1."""
    task_id = shell.submit("functions:add", "1")
    assert shell("tasks", "cancel", task_id).stdout == f"{task_id} cancelled\n"
    again = shell("tasks", "cancel", task_id)
    assert (again.returncode, again.stdout) == (1, f"{task_id} was not cancelled: it is cancelled\n")
    assert shell.json("tasks", "retry", task_id) == {"id": task_id, "retried": True, "status": "pending"}
    assert shell("tasks", "retry", task_id).returncode == 1


@pytest.fixture
def taken(shell, work) -> tuple[str, str]:
    """The ids of a task that failed, and of the one that has its unique key by now."""
    manager = work()
    submitter = manager.options(unique_key="report-42", max_retries=0)
    first = submitter.submit(functions.fail, "no").wait(timeout=120)
    manager.pause_queue("default")
    return first.id, submitter.submit(functions.fail, "no").id


def test_a_unique_key_is_shown_and_found(shell, taken: tuple[str, str]) -> None:
    """In both forms; a list by key has the finished tasks too."""
    first, second = taken
    assert "unique key  report-42\n" in shell("tasks", "show", second).stdout
    assert shell.json("tasks", "show", second)["unique_key"] == "report-42"
    shell.submit("functions:add", "1")
    found = shell.json("tasks", "list", "--unique-key", "report-42")
    assert [task["id"] for task in found] == [second, first]


def test_a_retry_whose_unique_key_is_taken_is_refused(shell, taken: tuple[str, str]) -> None:
    """It says by whom; among many it is counted."""
    first, second = taken
    done = shell("tasks", "retry", first)
    assert done.returncode == 1
    words = f"{first} was not retried: the unique key 'report-42' is held by task {second}"
    assert done.stdout.startswith(words)
    done = shell("tasks", "retry", "--status", "failed", "--yes")
    words = (
        f"retried 0 of 1 task (1 failed); 1 left as they are, such as {first}: the unique key 'report-42' is held by"
    )
    assert (done.returncode, done.stdout.startswith(words)) == (0, True)
    assert list(shell.json("tasks", "retry", "--status", "failed", "--yes")["refused"]) == [first]


def test_a_running_task_is_cancelled(shell, work) -> None:
    """Its function is told to stop."""
    task_id = shell.submit("functions:wait")
    handle = work().handle(task_id)
    shell("tasks", "cancel", task_id)
    assert handle.wait(timeout=120).status.value == "cancelled"


@pytest.mark.parametrize("verb", ["show", "cancel", "retry"])
def test_a_task_that_does_not_exist(shell, verb: str) -> None:
    """Exit code 1 and its id in the message."""
    done = shell("tasks", verb, "0" * 32)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no task has the id '{'0' * 32}'" in done.stderr


def test_relatives_are_shown(shell, work) -> None:
    """What a task waits for and what waits for it, in both forms; submitted on the command line."""
    manager = work()
    manager.pause_queue("default")
    parent = shell.submit("functions:fail", "no", "--max-retries", "0")
    child = shell.submit("functions:add", "1", "2", "--after", parent)
    tidy_up = shell.submit("functions:add", "1", "1", "--after-any-outcome", child)
    assert f"after {parent} (fail): pending, has to complete\n" in shell("tasks", "show", child).stdout
    assert f"before {tidy_up} (add): waiting\n" in shell("tasks", "show", child).stdout
    shown = shell.json("tasks", "show", child)
    assert shown["parents"] == [{"id": parent, "name": "fail", "status": "pending", "need": "success"}]
    assert [each["id"] for each in shown["dependants"]] == [tidy_up]
    assert f"it waits for 1 task to end: {parent} (fail, pending)" in shell("why", child).stdout
    manager.resume_queue("default")
    assert manager.handle(tidy_up).result(120) == 2
    assert f"cancelled by  the end of task {parent}, which it needed\n" in shell("tasks", "show", child).stdout
    assert shell.json("tasks", "show", child)["cancelled_by"] == parent
    refused = shell("tasks", "retry", child)
    assert refused.returncode == 1
    assert f"it needs {parent} to complete" in refused.stdout


def test_tasks_are_found_by_their_words(shell, work) -> None:
    """By arguments, errors and results, in both forms; and when nobody keeps an index, that is said."""
    task_id = shell.submit("functions:add", "1", "2")
    refused = shell("tasks", "search", "add")
    assert (refused.returncode, "no index of words is kept" in refused.stderr) == (64, True)
    manager = work()
    assert manager.handle(task_id).result(120) == 3
    failed = shell.submit("functions:fail", "splendid isolation", "--max-retries", "0")
    manager.handle(failed).wait(120)
    deadline = time.monotonic() + 120
    while not manager.search_state().is_on:  # nobody announces that the worker's thread that keeps it has begun
        assert time.monotonic() < deadline, "no index is kept"
        time.sleep(0.01)
    assert failed in shell("tasks", "search", "error:splendid", "isolation").stdout
    (match,) = shell.json("tasks", "search", '"splendid isolation"')["matches"]
    assert (match["id"], match["status"], match["name"]) == (failed, "failed", "fail")
    assert shell.json("tasks", "search", "--rebuild", "name:add")["matches"][0]["id"] == task_id
    assert shell("tasks", "search").returncode == 64
