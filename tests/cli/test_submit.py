"""`thirdshift submit`: a function of one's own, run in the background from a shell."""

import json

import pytest


def test_a_function_is_run_by_a_worker(shell, work) -> None:
    """Submitted with nobody there, it waits on disk; a worker that starts later runs it."""
    task_id = shell.submit("functions:add", "1", "other=2")
    assert shell.json("tasks", "show", task_id)["status"] == "pending"
    assert work().handle(task_id).result(timeout=120) == 3


def test_the_result_can_be_waited_for(shell, work) -> None:
    """It is printed as JSON; a failure is told on standard error, and the exit code is 1."""
    work()
    assert shell("submit", "functions:add", '"a"', "b", "--wait").stdout == '"ab"\n'
    assert shell.json("submit", "functions:add", "[1]", "[2]", "--wait")["result"] == [1, 2]
    failed = shell("submit", "functions:fail", "no way", "--max-retries", "0", "--wait")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.rstrip().endswith("failed: ValueError: no way")
    as_json = shell("--json", "submit", "functions:fail", "no", "--max-retries", "0", "--wait")
    assert (as_json.returncode, json.loads(as_json.stdout)["status"]) == (1, "failed")


def test_options_are_kept(shell) -> None:
    """Queue, name, priority, retries, timeout, pool and tags stand in the task."""
    options = "--queue mail --name letter --priority high --max-retries 7 --timeout 2.5 --pool process --tag a --tag b"
    task = shell.json("submit", "functions:add", "1", *options.split())
    assert (task["queue"], task["name"], task["pool"], task["tags"]) == ("mail", "letter", "process", ["a", "b"])
    assert (task["max_retries"], task["timeout_s"]) == (7, 2.5)
    assert task["priority"] > shell.json("submit", "functions:add", "1")["priority"]


def test_functions_of_another_folder(shell, tmp_path) -> None:
    """--app-dir names it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "more.py").write_text("def double(one):\n    return 2 * one\n")
    assert shell("submit", "more:double", "2").returncode == 64
    assert shell.submit("more:double", "2", "--app-dir", str(folder))


@pytest.mark.parametrize("fault", ["def", "1 / 0", "import missing_library", "raise RuntimeError('not today')"])
def test_a_module_that_cannot_be_imported(shell, fault: str) -> None:
    """One message with the cause, no traceback of ours, and nothing is submitted."""
    (shell.folder / "faulty.py").write_text(f"{fault}\ndef function(): ...\n")
    done = shell("submit", "faulty:function")
    assert done.returncode == 64
    assert done.stderr.startswith("thirdshift: faulty:function cannot be a task function: ")
    assert "Traceback" not in done.stderr
    assert not shell.database.exists()
