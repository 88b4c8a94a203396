"""`thirdshift train run`, `evaluate` and `generate`: training without a daemon."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).with_name("thirdshift"))
CONFIG = """
training:
  model: {size: nano}
  disk: {min_free_gb: 0, warn_free_gb: 0}
  training: {epochs: 1, batch_size: 8, micro_batch_size: 4, threads: 1}
"""


@pytest.fixture
def configured(shell):
    """A workspace that begins with a tiny model, and a file of puzzles."""
    (shell.workspace / "thirdshift.yaml").write_text(CONFIG)
    data = shell.folder / "puzzles.jsonl"
    made = shell.json("train", "generate", "--count", "60", "--levels", "1,3", "--seed", "5", "--output", str(data))
    assert made == {"file": str(data), "rows": 60, "levels": [1, 3], "seed": 5, "held_out": False}
    return data


@pytest.mark.training
def test_a_file_is_trained_in_front_and_the_model_examined(shell, configured) -> None:
    """One command trains, once; another asks the model questions it has never seen."""
    shell("train", "generate", "--held-out", "--count", "6", "--levels", "1-2")
    done = shell("train", "run", str(configured))
    assert done.returncode == 0, done.stderr
    assert "57 trained, 3 held out" in done.stdout
    assert "fp32, rows packed, 4 at once" in done.stdout
    assert "exact match, syllo.jsonl" in done.stdout
    assert "training 8 of 8  loss" in done.stderr
    again = shell.json("train", "run", str(configured))
    assert (again["finished"], again["step"], again["after"].keys()) == (True, 8, {"syllo.jsonl", "this file"})
    (record,) = shell.json("train", "history")
    assert (record["file"], record["outcome"], record["result"]["step"]) == ("puzzles.jsonl", "published", 8)
    assert "finished, step 8" in shell("train", "history", "puzzles.jsonl").stdout
    nothing_to_accept = shell("train", "accept", "puzzles.jsonl")
    assert (nothing_to_accept.returncode, "it was published" in nothing_to_accept.stderr) == (1, True)
    assert shell("train", "accept", "other.jsonl").returncode == 1
    page = shell.workspace / "reports" / "report.html"
    assert f"1 files in {page}" in shell("train", "report").stdout
    assert "puzzles.jsonl" in page.read_text()
    assert shell.json("train", "report")["totals"]["rows"] == 57
    puzzle = shell.json("train", "chat", "--puzzle", "--level", "2", "--seed", "3", "--longest", "8")
    assert puzzle["is_right"] == (puzzle["answer"] == puzzle["expected"])
    assert puzzle["checkpoint"] == again["checkpoint"]
    command = [COMMAND, "--workspace", str(shell.workspace), "train", "chat", "--longest", "4"]
    talked = subprocess.run(command, input="hello\n/new\nagain\n", capture_output=True, text=True, check=False)
    assert (talked.returncode, talked.stderr) == (0, "")
    assert talked.stdout.endswith("\n")
    found = shell.json("train", "evaluate", "--limit", "4")
    assert found["syllo.jsonl"]["asked"] == 4
    assert found["syllo.jsonl"]["loss"] < 6


def test_generated_puzzles_go_to_the_inbox_or_the_examination(shell) -> None:
    """The same seed gives the same file; held-out puzzles are others."""
    one = shell.json("train", "generate", "--count", "5", "--levels", "2-4", "--seed", "1")
    other = shell.json("train", "generate", "--count", "5", "--levels", "2-4", "--seed", "1")
    assert one["file"] != other["file"]
    contents = [Path(found["file"]).read_text() for found in (one, other)]
    assert contents[0] == contents[1]
    assert {json.loads(line)["level"] for line in contents[0].splitlines()} <= {2, 3, 4}
    held_out = shell("train", "generate", "--count", "5", "--seed", "1", "--held-out").stdout
    assert held_out == f"5 puzzles in {shell.workspace / 'data' / 'heldout' / 'syllo.jsonl'}\n"


def test_without_a_model_or_a_history_it_is_said(shell) -> None:
    """Nobody has trained anything yet."""
    alone = shell("train", "chat", "--prompt", "hello")
    assert (alone.returncode, "the first training makes one" in alone.stderr) == (1, True)
    assert shell("train", "chat", "--prompt", "hello", "--puzzle").returncode == 64
    assert shell("train", "history").stdout == "no training has ended yet\n"
    assert "0 files in" in shell("train", "report", "--output", str(shell.folder / "page")).stdout
    assert "No training has ended yet." in (shell.folder / "page" / "report.html").read_text()


def test_mistakes_are_told(shell, tmp_path) -> None:
    """Each with the line or the option that is wrong, and an exit code."""
    bad = shell("train", "generate", "--levels", "one")
    assert (bad.returncode, "--levels 'one' is no list of levels" in bad.stderr) == (64, True)
    assert shell("train", "generate", "--levels", "11").returncode == 64
    nothing = shell("train", "evaluate")
    assert (nothing.returncode, "train generate --held-out" in nothing.stderr) == (64, True)
    assert shell("train", "run", "missing.jsonl").returncode == 64


@pytest.mark.training
def test_ctrl_c_stops_it_and_the_same_command_goes_on(shell, configured) -> None:
    """The exit code is that of an interrupted program; the second call ends what the first began."""
    command = [COMMAND, "--workspace", str(shell.workspace), "train", "run", str(configured), "--epochs", "40"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "tokens/s" in line:  # a step was made
                process.send_signal(signal.SIGINT)
                break
        told = process.stderr.read()
    assert process.returncode == 130, told
    assert "of 320; the same command goes on there" in told
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert again.returncode == 0, again.stderr
    assert " 320 in " in again.stdout


@pytest.mark.training
def test_a_bad_line_is_named_and_nothing_is_trained(shell, configured) -> None:
    """File, line and cause, and exit code 1."""
    with configured.open("a") as file:
        file.write("not a row\n")
    done = shell("train", "run", str(configured))
    assert done.returncode == 1
    assert "puzzles.jsonl:61: not JSON" in done.stderr
    assert not list((shell.workspace / "models" / "current_model" / "checkpoints").glob("ckpt-*"))
