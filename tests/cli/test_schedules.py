"""``thirdshift schedules`` as people use it."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("thirdshift"))
NIGHTLY = ("functions:add", "1", "other=2", "--name", "nightly", "--cron", "0 3 * * *", "--timezone", "Europe/Berlin")


def test_add_list_show_preview(shell) -> None:
    """The rule is said in plain words, moments by the clocks of its zone."""
    added = shell("schedules", "add", *NIGHTLY, "--overlap", "queue")
    assert added.stdout.startswith("nightly: At 03:00 every day, Europe/Berlin time; next 20"), added.stderr
    assert shell("schedules", "list").stdout.splitlines()[1].split("\t")[:3] == [
        "nightly", "active", "At 03:00 every day, Europe/Berlin time",
    ]  # fmt: skip
    moments = shell("schedules", "preview", "nightly", "--count", "3").stdout.splitlines()
    assert len(moments) == 3
    assert all(" 03:00:00+0" in moment for moment in moments)
    shown = shell("schedules", "show", "nightly")
    assert "cron 0 3 * * *, Europe/Berlin" in shown.stdout
    assert shown.stdout.count("\nnext  ") == 5
    (listed,) = json.loads(shell("--json", "schedules", "list").stdout)
    assert (listed["name"], listed["cron"], listed["overlap"]) == ("nightly", "0 3 * * *", "queue")
    assert datetime.fromisoformat(listed["next_at"])


def test_pause_resume_run_now_delete(shell) -> None:
    """Each says what has become of it."""
    shell("schedules", "add", *NIGHTLY)
    assert shell("schedules", "pause", "nightly").stdout == "nightly is paused\n"
    assert shell("schedules", "pause", "nightly").stdout == "nightly is paused already\n"
    assert json.loads(shell("--json", "schedules", "resume", "nightly").stdout)["state"] == "active"
    task_id = shell("schedules", "run-now", "nightly").stdout.strip()
    task = shell.json("tasks", "show", task_id)
    assert task["arguments"]
    assert task["schedule"] == "nightly"
    moment = datetime.fromisoformat(task["scheduled_for"])
    assert f"nightly, for {moment:%Y-%m-%d %H:%M:%S} UTC" in shell("tasks", "show", task_id).stdout
    again = shell("schedules", "run-now", "nightly")
    assert again.returncode == 1
    assert "another one of it is unfinished" in again.stderr
    (last, first) = json.loads(shell("--json", "schedules", "show", "nightly").stdout)["fires"]
    assert (last["task"], first["task"], first["status"]) == (None, task_id, "pending")
    assert "no task: another one was unfinished" in shell("schedules", "show", "nightly").stdout
    assert shell("schedules", "delete", "nightly").stdout == "nightly is deleted\n"
    assert json.loads(shell("--json", "schedules", "list").stdout) == []


def test_an_expression_can_be_tried_out(shell) -> None:
    """Without a schedule."""
    tried = shell("schedules", "preview", "*/5 * * * *")
    assert tried.stderr == "Every fifth minute of every hour, UTC\n"
    assert len(tried.stdout.splitlines()) == 5


def test_what_is_wrong_is_said(shell) -> None:
    """With the exit code for usage; an unknown name with that for failed work."""
    wrong = shell("schedules", "add", "functions:add", "1", "--cron", "61 * * * *")
    assert (wrong.returncode, wrong.stderr) == (
        64, "thirdshift: cron is '61 * * * *': bad minute; such as '30 3 * * 1-5', at 03:30 on weekdays\n",
    )  # fmt: skip
    assert shell("schedules", "add", "functions:add", "1").returncode == 64
    unknown = shell("schedules", "pause", "nothing")
    assert unknown.returncode == 1
    assert "there is no schedule 'nothing'" in unknown.stderr


def test_functions_of_the_modules_that_the_file_names(shell) -> None:
    """They are imported at the start, and what they declare is stored."""
    (shell.folder / "chores.py").write_text(
        "from thirdshift import task\n@task(schedule='@daily', queue='chores')\ndef tidy(): ...\n"
    )
    file = shell.workspace / "thirdshift.yaml"
    file.write_text("scheduler: {modules: [chores]}\n")
    environment = {**os.environ, "THIRDSHIFT_WORKSPACE": str(shell.workspace)}
    command = [COMMAND, "worker", "--quiet", "--threads", "1"]
    with subprocess.Popen(command, cwd=shell.folder, env=environment) as worker:
        while not (listed := json.loads(shell("--json", "schedules", "list").stdout)):
            assert worker.poll() is None
        worker.terminate()
    assert [(each["name"], each["source"], each["queue"]) for each in listed] == [("chores:tidy", "code", "chores")]
    file.write_text("scheduler: {modules: [chors]}\n")
    refused = shell("worker", "--quiet")
    assert refused.returncode == 78
    assert "scheduler.modules: chors cannot be imported (No module named 'chors')" in refused.stderr


def test_schedules_of_the_file_are_those_of_the_worker(shell) -> None:
    """Stored when it starts, gone when the file names them no more; nothing starts when one cannot be found."""
    file = shell.workspace / "thirdshift.yaml"
    shell("schedules", "add", *NIGHTLY)
    file.write_text(
        "schedules:\n  hourly: {function: 'functions:add', arguments: [1], every_seconds: 3600}\n"
        "  once: {function: 'functions:add', arguments: [1], keywords: {other: 41}, at: '2020-01-01 12:00'}\n"
    )
    done = shell("worker", "--drain", "--quiet", "--threads", "1", "--processes", "0")
    assert done.returncode == 0, done.stderr
    listed = {each["name"]: each["source"] for each in json.loads(shell("--json", "schedules", "list").stdout)}
    assert listed == {"hourly": f"file:{file}", "nightly": "call", "once": f"file:{file}"}
    file.write_text("schedules:\n  hourly: {function: 'functions:nothing', every_seconds: 3600}\n")
    refused = shell("worker", "--drain", "--quiet")
    assert refused.returncode == 78
    assert "schedules.hourly: functions:nothing cannot be scheduled" in refused.stderr
    file.write_text("scheduler: {check_interval_seconds: 2}\n")
    assert shell("worker", "--drain", "--quiet").returncode == 0
    assert [each["name"] for each in json.loads(shell("--json", "schedules", "list").stdout)] == ["nightly"]
