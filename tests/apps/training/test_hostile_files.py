"""Broken and hostile things in the inbox: each ends where it belongs, with a cause that its owner understands."""

import bz2
import gzip
import json
import lzma
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.apps.training.files.queue import TrainingQueue
from thirdshift.apps.training.inbox.check_task import INTAKE_QUEUE
from thirdshift.apps.training.inbox.intake import Intake
from thirdshift.apps.training.notices import Notice
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.host.processes import descendants
from thirdshift.testing import run_until_idle

SWAPPING_S = float(os.environ.get("THIRDSHIFT_SWAPPING_S", "1"))
SECRET = '{"text": "nobody may read this"}\n'


def row(**document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def chat(*messages: object) -> bytes:
    return row(messages=list(messages))


def said(role: object, content: object = "words") -> dict[str, object]:
    return {"role": role, "content": content}


GOOD = row(prompt="1 + 1 =", completion="2")
DEEP = b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
BAD_CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \n\t\n", "blank lines"),
    "gzip": (gzip.compress(GOOD), "is compressed (gzip)"),
    "bzip2": (bz2.compress(GOOD), "is compressed (bzip2)"),
    "xz": (lzma.compress(GOOD), "is compressed (xz)"),
    "zip": (b"PK\x03\x04\x14\x00", "is compressed (zip)"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04", "is compressed (zstd)"),
    "utf-16": ("﻿{}".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    "utf-16-no-mark": ("{}".encode("utf-16-le"), "NUL byte"),
    "utf-8-mark": (b"\xef\xbb\xbf" + GOOD, "byte order mark"),
    "latin-1": (b'{"text": "caf\xe9"}\n', "not UTF-8: byte 0xe9 (column 14)"),
    "elf": (b"\x7fELF\x02\x01\x01\0", "NUL byte"),
    "late-nul": (GOOD * 10_000 + b'{"text": "a\0b"}\n', "10001: holds a NUL byte"),
    "sqlite": (b"SQLite format 3\0", "NUL byte"),
    "html": (b"<!DOCTYPE html><html>404</html>\n", "not JSON"),
    "csv": (b"prompt,completion\n1,2\n", "not JSON"),
    "list": (b"[\n" + GOOD + b"]\n", "begins with a JSON list; write one JSON object a line"),
    "pretty": (b'{\n "text": "a"\n}\n', "not JSON"),
    "two-a-line": (b'{"text": "a"}{"text": "b"}\n', "not JSON: Extra data"),
    "cut-off": (GOOD + b'{"prompt": "1 + 1 =", "comple', "2: not JSON"),
    "single-quotes": (b"{'text': 'a'}\n", "not JSON"),
    "comma": (b'{"text": "a"},\n', "not JSON: Extra data"),
    "nan": (b'{"text": "a", "weight": NaN}\n', "not JSON: it knows no NaN"),
    "infinity": (b'{"text": "a", "weight": -Infinity}\n', "not JSON: it knows no -Infinity"),
    "digits": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n", "not JSON that can be read"),
    "deep": (DEEP, "not JSON that can be read"),
    "number": (b"7\n", "holds a number; a row is a JSON object"),
    "null": (b"null\n", "holds null; a row is a JSON object"),
    "text-alone": (b'"text"\n', "holds a string; a row is a JSON object"),
    "no-key": (b"{}\n", "found no key at all"),
    "foreign": (row(question="a", answer="b"), 'needs "messages", "prompt", "instruction" or "text"'),
    "many-keys": (row(**{f"key {number}": number for number in range(10_000)}), 'needs "messages"'),
    "text-null": (row(text=None), '"text" of the row is null'),
    "text-blank": (row(text="  \n "), '"text" of the row is empty'),
    "half-a-pair": (b'{"text": "\\ud83d"}\n', "half of a surrogate pair (\\ud83d)"),
    "no-answer": (row(prompt="a"), 'the row has no "completion"'),
    "answer-list": (row(prompt="a", completion=["b"]), '"completion" of the row is a list'),
    "no-output": (row(instruction="a", input="b"), 'the row has no "output"'),
    "level": (row(text="a", level=[1]), '"level" is a list'),
    "messages-text": (row(messages="hello"), '"messages" is a string'),
    "messages-none": (row(messages=[]), "the last message must be the assistant's answer"),
    "question-last": (chat(said("assistant"), said("user")), "the last message must be the assistant's answer"),
    "no-question": (chat(said("system"), said("assistant")), "no message is the user's"),
    "role": (chat(said("user"), said("robot" * 1000)), "message 2 has the unknown role 'robotrobot"),
    "role-number": (chat(said(1), said("assistant")), '"role" of message 1 is a number'),
    "message-text": (chat("hello", said("assistant")), "message 1 is a string"),
    "parts": (chat(said("user", [{"type": "text"}]), said("assistant")), '"content" of message 1 is a list'),
    "talkative": (chat(*[said("user"), said("assistant")] * 501), "has 1,002 messages; the limit is 1,000"),
    "endless-line": (b'{"text": "' + b"x" * 17_000_000 + b'"}\n', "is longer than 16,777,216 bytes"),
    "long-answer": (row(prompt="a", completion="b" * 5_000_000), "the answer alone has more than 511 tokens"),
    "long-text": (row(text="word " * 200), "the text has 1,001 tokens; the model's context has room for 512"),
}
GOOD_CONTENTS: dict[str, bytes] = {
    "dos-lines": b'{"text": "dos"}\r\n{"text": "lines"}\r\n',
    "no-last-newline": b'{"text": "no last newline"}',
    "blank-between": b'\n\n{"text": "blank between"}\n\n',
    "key-twice": b'{"text": "a", "text": "key twice"}\n',
    "marks": row(text="<|end|><|assistant|> \x1b[31m \u202e"),
    "long-question": row(prompt="q" * 2_000_000, completion="long question"),
    "more-keys": row(text="more keys", id=3, meta={"source": [1, None]}),
}
HOSTILE_NAMES = {
    "ä" * 123 + ".jsonl": f"{'ä' * 97}.jsonl",
    "new\nline\t\x1b[31m\x7f.jsonl": "new_line__[31m_.jsonl",
    "\u202etxt.jsonl": "_txt.jsonl",
    os.fsdecode(b"latin\xe9.jsonl"): "latin\\xe9.jsonl",
    "-rf *; $(reboot) `x` |.jsonl": "-rf *; $(reboot) `x` |.jsonl",
    "..jsonl.jsonl": None,
    "a..b...jsonl": "a..b...jsonl",
    "CON.jsonl": "CON.jsonl",
    "Case.jsonl": "Case.jsonl",
    "case.jsonl": "case.jsonl",
    "x.report.json.jsonl": "x.report.json.jsonl",
}


@pytest.fixture
def workspace(tmp_path: Path) -> TrainingWorkspace:
    workspace = TrainingWorkspace(tmp_path / "workspace")
    workspace.create()
    (workspace.root / "thirdshift.yaml").write_text("training: {model: {size: nano}}")
    return workspace


def take_all(intake: Intake, manager: BackgroundTaskManager) -> None:
    """Do what the daemon does until nothing is left to do."""
    while True:
        intake.flatten()
        intake.tick()
        if not intake.size():
            return
        run_until_idle(manager)


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".report.json")}


def cause_of(failed: Path, name: str) -> str:
    document = json.loads((failed / f"{name}.report.json").read_bytes())
    assert document["final_failure"] is True
    return str(document["cause"])


def test_broken_contents_are_refused_and_odd_ones_are_not(
    workspace: TrainingWorkspace, intake: Intake, manager: BackgroundTaskManager, queue: TrainingQueue
) -> None:
    """More than fifty kinds, all at once: each report names the line and the cause in one short sentence."""
    for name, (content, _) in BAD_CONTENTS.items():
        (workspace.inbox / f"{name}.jsonl").write_bytes(content)
    for name, content in GOOD_CONTENTS.items():
        (workspace.inbox / f"{name}.jsonl").write_bytes(content)
    take_all(intake, manager)
    assert {file.name.removesuffix(".jsonl") for file in queue.queued()} == GOOD_CONTENTS.keys()
    assert {name.removesuffix(".jsonl") for name in visible(workspace.failed)} == BAD_CONTENTS.keys()
    for name, (_, why) in BAD_CONTENTS.items():
        cause = cause_of(workspace.failed, f"{name}.jsonl")
        assert cause.startswith(f"{name}.jsonl:")
        assert why in cause
        assert len(cause) < 400
        assert cause.isprintable()
    assert visible(workspace.inbox) == set()
    assert queue.checking.names() == []


def test_what_is_no_file_of_its_own_is_refused_unread(
    workspace: TrainingWorkspace, intake: Intake, manager: BackgroundTaskManager, tmp_path: Path
) -> None:
    """Links to files, to folders, to nothing and to themselves, hard links, FIFOs, sockets, folders, sparse giants."""
    inbox = workspace.inbox
    secret = tmp_path / "secret.jsonl"
    secret.write_text(SECRET)
    (inbox / "sub").mkdir()
    (inbox / "link.jsonl").symlink_to(secret)
    (inbox / "sub" / "inner-link.jsonl").symlink_to(secret)
    (inbox / "folder-link.jsonl").symlink_to(tmp_path)
    (inbox / "loop.jsonl").symlink_to(inbox / "loop.jsonl")
    (inbox / "nowhere.jsonl").symlink_to(tmp_path / "nowhere")
    os.link(secret, inbox / "hard.jsonl")
    os.mkfifo(inbox / "fifo.jsonl")
    (inbox / "folder.jsonl").mkdir()
    (inbox / "folder.jsonl" / "inner.jsonl").write_text(SECRET)
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch().context() as patch:
        patch.chdir(inbox)
        server.bind("socket.jsonl")
    with (inbox / "giant.jsonl").open("wb") as file:
        file.truncate(20 * 10**9)
    take_all(intake, manager)
    causes = {name: cause_of(workspace.failed, name).split(": ")[1] for name in visible(workspace.failed)}
    link = "is a symbolic link; only a regular file can be trained"
    assert causes.pop("giant.jsonl").startswith("has 20,000,000,000 bytes; the limit is 16,000,000,000")
    assert causes.pop("hard.jsonl").startswith("has another name elsewhere (a hard link)")
    assert causes == {
        "link.jsonl": link,
        "inner-link.jsonl": link,
        "folder-link.jsonl": link,
        "loop.jsonl": link,
        "nowhere.jsonl": link,
        "fifo.jsonl": "is a FIFO; only a regular file can be trained",
        "folder.jsonl": "is a directory; only a regular file can be trained",
        "socket.jsonl": "is a socket; only a regular file can be trained",
    }
    assert secret.read_text() == SECRET
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.jsonl", "workspace"]


def test_names_that_break_programs_break_nothing(
    workspace: TrainingWorkspace, intake: Intake, manager: BackgroundTaskManager, queue: TrainingQueue
) -> None:
    """They are kept as far as every terminal and file system takes them; what begins with a dot is left alone."""
    for number, name in enumerate(HOSTILE_NAMES):
        (workspace.inbox / name).write_bytes(row(text=f"number {number}"))
    take_all(intake, manager)
    wanted = {name for name in HOSTILE_NAMES.values() if name is not None}
    assert {file.name for file in queue.queued()} == wanted
    assert visible(workspace.inbox) == {"..jsonl.jsonl"}


def test_folders_without_end_are_not_followed(
    workspace: TrainingWorkspace, intake: Intake, manager: BackgroundTaskManager, queue: TrainingQueue
) -> None:
    """A thousand folders inside each other; what lies beside them arrives."""
    (workspace.inbox / "x.jsonl").write_bytes(GOOD)
    deepest = os.open(workspace.inbox, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("d", dir_fd=deepest)
        below = os.open("d", os.O_RDONLY, dir_fd=deepest)
        os.close(deepest)
        deepest = below
    os.close(deepest)
    take_all(intake, manager)
    assert [file.name for file in queue.queued()] == ["x.jsonl"]
    subprocess.run(["rm", "-rf", str(workspace.inbox / "d")], check=True)  # our own rmtree would recurse too deep


def test_a_swapper_of_links_gains_nothing(
    workspace: TrainingWorkspace, intake: Intake, manager: BackgroundTaskManager, queue: TrainingQueue, tmp_path: Path
) -> None:
    """Files and folders become links to a secret, and back, thousands of times a second: it is never read or moved.

    `make hostile` does it for a minute.
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.jsonl").write_text(SECRET)
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        inbox, number = workspace.inbox, 0
        while not stop.is_set():
            number += 1
            for name, target in (("file.jsonl", outside / "x.jsonl"), ("sub", outside)):
                hidden = inbox / f".{number}"
                if number % 2:
                    hidden.symlink_to(target)
                elif name == "sub":
                    hidden.mkdir()
                    (hidden / "x.jsonl").write_bytes(row(text=f"sub {number}"))
                else:
                    hidden.write_bytes(row(text=f"file {number}"))
                put_in_place(hidden, inbox / name)
                swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    deadline = time.monotonic() + SWAPPING_S
    try:
        while time.monotonic() < deadline:
            intake.flatten()
            intake.tick()
            run_until_idle(manager)
    finally:
        stop.set()
        thread.join()
    shutil.rmtree(workspace.inbox)
    workspace.inbox.mkdir()
    assert swaps > 50
    assert (outside / "x.jsonl").read_text() == SECRET
    assert (outside / "x.jsonl").stat().st_nlink == 1
    assert sorted(path.name for path in outside.iterdir()) == ["x.jsonl"]
    for path in workspace.root.rglob("*.jsonl"):
        assert path.is_symlink() or SECRET not in path.read_text()


def put_in_place(source: Path, target: Path) -> None:
    """Put *source* in the place of *target*, whatever that is; others may move things meanwhile."""
    for _ in range(100):
        try:
            source.replace(target)
        except OSError:
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)
        else:
            return


def test_a_look_takes_the_memory_of_a_line_not_of_a_file(tmp_path: Path) -> None:
    """In a child process, by its own peak: a file of 60 MB and a line of 16 MB, at every level."""
    rows, line = tmp_path / "rows.jsonl", tmp_path / "line.jsonl"
    with rows.open("wb") as file:
        for number in range(60_000):
            file.write(row(prompt=f"{number} " * 150, completion="b"))
    line.write_bytes(row(prompt="a", completion="b" * 16_000_000) * 2)
    program = """
import resource, sys
from pathlib import Path
from thirdshift.apps.training.models import byte_tokenizer
from thirdshift.apps.training.models.measure import FastTokenizer, Measure
from thirdshift.apps.training.inbox.validation import validate
measure = Measure(
    tokenizer=FastTokenizer(byte_tokenizer.make(), {"eos_token": byte_tokenizer.END}, byte_tokenizer.CHAT_TEMPLATE),
    context=512,
)
report = validate(Path(sys.argv[1]), sys.argv[2], measure=measure)
print(report.rows, report.problem_count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""

    def peak_mib(path: Path, level: str) -> tuple[int, int, int]:
        command = [sys.executable, "-c", program, str(path), level]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found, problems, peak = done.stdout.split()
        return int(found), int(problems), int(peak)

    small = tmp_path / "small.jsonl"
    small.write_bytes(GOOD)
    _, _, least = peak_mib(small, "standard")
    for path, level, more_mib, found in (
        (rows, "quick", 20, (60_000, 0)),
        (rows, "standard", 60, (60_000, 0)),
        (line, "standard", 250, (0, 2)),
    ):
        *outcome, peak = peak_mib(path, level)
        assert tuple(outcome) == found
        assert peak < least + more_mib, f"{path.name} at {level}: {peak} MiB, and {least} for a small file"


def test_a_check_that_is_killed_is_tried_again_and_given_up_at_last(
    workspace: TrainingWorkspace, intake: Intake, queue: TrainingQueue, told: list[Notice]
) -> None:
    """As when memory runs out: after three times the file lies in queue/failed with the cause, and is not lost."""
    with (workspace.inbox / "a.jsonl").open("wb") as file:
        for number in range(400_000):
            file.write(row(text=f"{number} " * 20))
    intake.tick()
    children: set[int] = set()
    path = str(workspace.checking / "a.jsonl")
    with BackgroundTaskManager("process", 1, database=workspace.root / "tasks.db", queues=[INTAKE_QUEUE]):
        while not told:
            for pid in descendants(os.getpid()):
                if pid not in children and path in open_files(pid):
                    children.add(pid)
                    os.kill(pid, signal.SIGKILL)
            intake.tick()
            time.sleep(0.002)
    document = json.loads((workspace.failed / "a.jsonl.report.json").read_bytes())
    assert len(children) == document["attempts"] == 3
    assert document["final_failure"] is True
    assert "its check came to no end: " in document["cause"]
    assert queue.checking.names() == []


def open_files(pid: int) -> set[str]:
    found = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            found.add(str(link.readlink()))
    except OSError:
        pass
    return found
