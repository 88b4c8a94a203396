"""The command as a whole: help, exit codes, pipes."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

VERBS = [
    ["up"],
    ["status"],
    ["submit"],
    ["why"],
    ["worker"],
    ["health"],
    *(["tasks", verb] for verb in ("list", "show", "cancel", "retry", "delete", "prune", "vacuum")),
    *(["queues", verb] for verb in ("list", "pause", "resume", "limit")),
    *(["train", verb] for verb in ("status", "pause", "resume", "stop", "trigger")),
    ["tasks"],
    ["queues"],
    ["train"],
]


@pytest.fixture(scope="module")
def helps() -> list[str]:
    """What --help says of each verb, asked in a process that has loaded nothing else."""
    script = """
import contextlib, io, json, sys
from thirdshift.cli.main import run
texts = []
for verb in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert run([*verb, "--help"]) == 0
    texts.append(text.getvalue())
heavy = {"torch", "transformers", "numpy", "sqlite3", "thirdshift.manager"} & set(sys.modules)
assert not heavy, f"loaded {heavy}"
print(json.dumps(texts))
"""
    command = [sys.executable, "-c", script, json.dumps(VERBS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts: list[str] = json.loads(done.stdout)
    return texts


@pytest.mark.parametrize("number", range(len(VERBS)), ids=[" ".join(verb) for verb in VERBS])
def test_help_shows_an_example(helps: list[str], number: int) -> None:
    """Of each verb, without a workspace, and without loading what the verb itself needs."""
    example, *_ = (line.strip() for line in helps[number].splitlines() if line.startswith("  thirdshift "))
    assert {"thirdshift", *VERBS[number]} <= set(example.split())


def test_the_command_alone_explains_itself(shell) -> None:
    """With examples and the exit codes."""
    done = shell("--help")
    assert done.returncode == 0
    assert "thirdshift submit mymodule:function 1" in done.stdout
    assert "75 already running" in " ".join(done.stdout.split())
    assert shell("--version").stdout.startswith("thirdshift, version 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["dance"],
        ["status", "--loudly"],
        ["tasks", "show"],
        ["why"],
        ["tasks", "list", "--status", "happy"],
        ["submit", "math"],
        ["submit", "math:pi"],
        ["submit", "nowhere:function"],
        ["submit", "math:nothing"],
        ["train", "trigger", "happiness"],
        ["up", "--max-workers", "0"],
    ],
    ids=" ".join,
)
def test_a_wrong_call_exits_with_64(shell, arguments: list[str]) -> None:
    """The message stands on standard error and makes nothing."""
    done = shell(*arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert list(shell.workspace.iterdir()) == []


def test_a_database_of_somebody_else_exits_with_69(shell) -> None:
    """It is named, and stays as it is."""
    with sqlite3.connect(shell.database) as connection:
        connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    before = shell.database.read_bytes()
    for arguments in (["status"], ["tasks", "list"], ["queues", "list"], ["submit", "math:factorial", "5"]):
        done = shell(*arguments)
        assert (done.returncode, done.stdout) == (69, ""), done.stderr
        assert f"{shell.database} is not a sound Thirdshift database: it is another program's" in done.stderr
        assert "Traceback" not in done.stderr
    assert shell.database.read_bytes() == before


def test_what_is_no_database_exits_with_69(shell) -> None:
    """Text in its place, or a folder."""
    shell.database.write_text("not a database, but long enough to be mistaken for one " * 40)
    assert shell("status").returncode == 69
    shell.database.unlink()
    shell.database.mkdir()
    done = shell("tasks", "list")
    assert done.returncode == 69, done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_configuration_exits_with_78(shell) -> None:
    """Also for a question; the message names file, line and column."""
    (shell.workspace / "thirdshift.yaml").write_text("log_level: INFO\n  database: x\n")
    done = shell("status")
    assert done.returncode == 78
    assert f"{shell.workspace / 'thirdshift.yaml'}:2:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error(shell) -> None:
    """`thirdshift tasks list | head -1` says nothing but the first line."""
    environment = {**os.environ, "THIRDSHIFT_WORKSPACE": str(shell.workspace)}
    command = Path(sys.executable).with_name("thirdshift")
    for arguments in ("tasks list", "--json tasks list", "status", "--help"):
        shell_line = f"{command} {arguments} | true"
        done = subprocess.run(["sh", "-c", shell_line], capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode, done.stderr) == (0, ""), arguments


def test_a_workspace_may_be_named_in_three_ways(shell, tmp_path: Path) -> None:
    """By option, by its alias, or by the environment; the option wins."""
    other = tmp_path / "other"
    other.mkdir()
    assert json.loads(shell("--json", "status").stdout)["workspace"] == str(shell.workspace)
    for option in ("--workspace", "--base-dir"):
        assert json.loads(shell(option, str(other), "--json", "status").stdout)["workspace"] == str(other)
