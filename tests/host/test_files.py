"""Files are old or new, never a mixture, and nothing is overwritten by a move."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from thirdshift.host.files import (
    make_folders,
    move_directory_without_overwriting,
    move_without_overwriting,
    write_atomically,
)

WRITER = """
import sys
from pathlib import Path
from thirdshift.host.files import write_atomically
target = Path(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    number += 1
    write_atomically(target, (b"%08d" % number) * 20_000, durable=sys.argv[2] == "durable")
"""


@pytest.mark.parametrize("durability", ["durable", "quick"])
def test_a_reader_sees_old_bytes_or_new_ones_until_the_writer_is_killed(tmp_path: Path, durability: str) -> None:
    """While a file is rewritten without pause, and after kill -9 of the writer, every reading is of one writing."""
    target = tmp_path / "status.json"
    target.write_bytes(b"%08d" % 0 * 20_000)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(target), durability], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen: set[bytes] = set()
        while len(seen) < 20:
            content = target.read_bytes()
            assert content == content[:8] * 20_000
            seen.add(content[:8])
        os.kill(writer.pid, signal.SIGKILL)
    content = target.read_bytes()
    assert content == content[:8] * 20_000


def test_a_written_file_is_private_and_leaves_no_temporary(tmp_path: Path) -> None:
    """The new file is 0600 and alone in its folder."""
    target = tmp_path / "a"
    write_atomically(target, b"one")
    write_atomically(target, b"two", durable=False)
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    """When the target cannot be replaced, the temporary file goes too."""
    target = tmp_path / "a"
    target.mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(target, b"one")
    assert list(tmp_path.iterdir()) == [target]


def test_a_move_never_overwrites_a_namesake(tmp_path: Path) -> None:
    """The second and third of one name get -1 and -2; every content is still there."""
    folder = tmp_path / "queue"
    folder.mkdir()
    moved = []
    for content in ("one", "two", "three"):
        source = tmp_path / "data.jsonl"
        source.write_text(content)
        moved.append(move_without_overwriting(source, folder))
        assert not source.exists()
    assert [path.name for path in moved] == ["data.jsonl", "data-1.jsonl", "data-2.jsonl"]
    assert [path.read_text() for path in moved] == ["one", "two", "three"]


def test_a_move_can_give_a_new_name(tmp_path: Path) -> None:
    """Also within one folder."""
    source = tmp_path / "a"
    source.write_text("one")
    assert move_without_overwriting(source, tmp_path, "b") == tmp_path / "b"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_move_that_was_interrupted_between_its_two_steps_is_finished(tmp_path: Path) -> None:
    """A crash leaves two names of one file; moving it again keeps one."""
    folder = tmp_path / "queue"
    folder.mkdir()
    source = tmp_path / "data.jsonl"
    source.write_text("one")
    os.link(source, folder / "data.jsonl")
    assert move_without_overwriting(source, folder) == folder / "data.jsonl"
    assert not source.exists()
    assert [path.name for path in folder.iterdir()] == ["data.jsonl"]


def test_what_is_not_there_cannot_be_moved(tmp_path: Path) -> None:
    """The error names it."""
    with pytest.raises(FileNotFoundError, match="nothing"):
        move_without_overwriting(tmp_path / "nothing", tmp_path, "b")


def test_directories_move_without_overwriting_too(tmp_path: Path) -> None:
    """A namesake, empty or not, stays as it is."""
    folder = tmp_path / "failed"
    folder.mkdir()
    for content in ("one", "two"):
        source = tmp_path / "x.jsonl"
        source.mkdir()
        (source / content).touch()
        move_directory_without_overwriting(source, folder)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == [
        "x-1.jsonl",
        "x-1.jsonl/two",
        "x.jsonl",
        "x.jsonl/one",
    ]


def test_folders_are_made_with_their_parents_and_again_without_harm(tmp_path: Path) -> None:
    """What exists stays."""
    make_folders(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "kept").write_text("x")
    make_folders(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "kept").read_text() == "x"
