"""A verified directory is whole or not there, and any change of its bytes is noticed."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from thirdshift.core.errors import DamagedDirectory
from thirdshift.storage.temporaries import sweep_temporaries
from thirdshift.storage.verified import (
    MANIFEST_NAME,
    copy_verified,
    publish,
    read_manifest,
    verify,
)

FILES = {"weights.bin": bytes(range(48)), "nested/deep/config.json": b'{"a": 1}', "empty": b""}

# Publishes 1, 2, 3 … without end; the parent kills it somewhere in the middle.
PUBLISHER = """
import sys
from collections.abc import Iterator
from pathlib import Path
from thirdshift.storage.verified import publish
parent = Path(sys.argv[1])
def fill(folder):
    for number in range(5):
        (folder / f"part-{number}").write_bytes(bytes([number]) * 20_000)
print("ready", flush=True)
for number in range(1_000_000):
    publish(parent / f"{number:06d}", fill)
    print(number, flush=True)
"""

# Kills itself at the nth file operation of one publication (Python reports each to its audit hooks).
CRASHER = """
import os, signal, sys
from pathlib import Path
from thirdshift.storage.verified import publish
target, deadly, seen = Path(sys.argv[1]), 0, 0
def count(event, arguments):
    global seen
    if event == "open" or event.startswith(("os.", "shutil.")):
        seen += 1
        if seen == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
def fill(folder):
    (folder / "one").write_bytes(b"1" * 5_000)
    (folder / "two").write_bytes(b"2" * 5_000)
for number in range(1, 10_000):
    child = os.fork()
    if child == 0:
        deadly, seen = number, 0
        sys.addaudithook(count)
        publish(target.with_name(f"{target.name}-{number:04d}"), fill)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(number)
        break
"""


def fill(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def flips_of_the_manifest(directory: Path) -> Iterator[int]:
    """Flip one bit of the manifest after the other; yields the position while it is flipped."""
    content = (directory / MANIFEST_NAME).read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x01
        (directory / MANIFEST_NAME).write_bytes(damaged)
        yield position


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    target = tmp_path / "ckpt-000001"
    publish(target, fill, facts={"step": 7})
    return target


def test_a_published_directory_verifies_and_says_what_it_holds(directory: Path) -> None:
    """Every file with its size, and the facts of its writer."""
    manifest = verify(directory)
    assert {entry.path: entry.size_bytes for entry in manifest.files} == {name: len(FILES[name]) for name in FILES}
    assert manifest.size_bytes == 56
    assert manifest.facts == {"step": 7}
    assert read_manifest(directory) == manifest


def test_every_flip_of_a_single_byte_is_noticed(directory: Path) -> None:
    """Whichever byte of whichever file changes, the error names the file."""
    for name, content in FILES.items():
        for position in range(len(content)):
            for mask in (0x01, 0x80, 0xFF):
                damaged = bytearray(content)
                damaged[position] ^= mask
                (directory / name).write_bytes(damaged)
                with pytest.raises(DamagedDirectory, match=name):
                    verify(directory)
        (directory / name).write_bytes(content)
    verify(directory)


def test_a_changed_manifest_never_makes_other_files_look_sound(directory: Path) -> None:
    """A flip in the manifest either fails to verify, or leaves the list of files what it was."""
    sound = verify(directory)
    for _ in flips_of_the_manifest(directory):
        try:
            assert verify(directory).files == sound.files
        except DamagedDirectory:
            continue


def test_every_flip_in_the_manifest_is_noticed(directory: Path) -> None:
    """Also one in the facts of the writer."""
    for _ in flips_of_the_manifest(directory):
        with pytest.raises(DamagedDirectory):
            verify(directory)


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name]])
def test_truncation_is_noticed(directory: Path, name: str) -> None:
    """To nothing, or by one byte; and so is growth."""
    content = FILES[name]
    for damaged in (b"", content[:-1], content + b"\0"):
        (directory / name).write_bytes(damaged)
        with pytest.raises(DamagedDirectory, match="bytes instead of"):
            verify(directory)


def test_missing_and_foreign_files_are_noticed_together(directory: Path) -> None:
    """One error lists everything that is wrong."""
    (directory / "empty").unlink()
    (directory / "nested" / "stranger").touch()
    with pytest.raises(DamagedDirectory) as damage:
        verify(directory)
    assert damage.value.directory == directory
    assert [problem.split(" ")[0] for problem in damage.value.problems] == ["empty", "nested/stranger"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b'{"files": [{}], "facts": {}}', b"\xff\xfe"])
def test_without_a_readable_manifest_nothing_is_trusted(directory: Path, content: bytes | None) -> None:
    """Missing, empty, cut or something else: the directory is damaged, not an exception of the parser."""
    manifest = directory / MANIFEST_NAME
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    with pytest.raises(DamagedDirectory, match=r"manifest\.json cannot be read"):
        verify(directory)


def test_what_exists_is_never_overwritten(directory: Path) -> None:
    """Publishing and copying onto an existing directory are refused and change nothing."""
    with pytest.raises(FileExistsError):
        publish(directory, lambda folder: (folder / "other").touch())
    with pytest.raises(FileExistsError):
        copy_verified(directory, directory)
    verify(directory)


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    """An exception while filling goes through, and no trace of the directory stays."""

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        publish(tmp_path / "target", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_verifies_and_adds_its_facts(directory: Path, tmp_path: Path) -> None:
    """The copy holds the same files; its facts are those of the source and its own."""
    manifest = copy_verified(directory, tmp_path / "copy", facts={"why": "snapshot"})
    assert manifest == verify(tmp_path / "copy")
    assert manifest.files == verify(directory).files
    assert manifest.facts == {"step": 7, "why": "snapshot"}


def test_a_copy_of_a_damaged_directory_is_refused_and_removed(directory: Path, tmp_path: Path) -> None:
    """The error names the source and the file; no copy is left."""
    (directory / "weights.bin").write_bytes(b"x" * 48)
    with pytest.raises(DamagedDirectory, match=r"weights\.bin") as damage:
        copy_verified(directory, tmp_path / "copy")
    assert damage.value.directory == directory
    assert [path.name for path in tmp_path.iterdir()] == [directory.name]


def test_a_publication_killed_at_any_file_operation_is_whole_or_not_there(tmp_path: Path) -> None:
    """Killed before each of its operations in turn, it leaves nothing or a directory that verifies."""
    output = subprocess.check_output([sys.executable, "-c", CRASHER, str(tmp_path / "target")], text=True)
    kills = int(output) - 1
    assert kills > 10
    published = [path for path in tmp_path.iterdir() if ".tmp-" not in path.name]
    for path in published:
        assert [entry.path for entry in verify(path).files] == ["one", "two"]
    assert 0 < len(published) < kills
    sweep_temporaries(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(published)


def test_publications_killed_at_random_moments_are_never_half_visible(tmp_path: Path) -> None:
    """Whatever has its real name verifies, and what was reported as published is there."""
    for round_number in range(5):
        parent = tmp_path / str(round_number)
        parent.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(parent)], stdout=subprocess.PIPE, text=True
        ) as publisher:
            assert publisher.stdout is not None
            assert publisher.stdout.readline() == "ready\n"
            lines = [publisher.stdout.readline() for _ in range(3 + round_number)]
            os.kill(publisher.pid, signal.SIGKILL)
            reported = {f"{int(line):06d}" for line in [*lines, *publisher.stdout]}
        visible = {path.name for path in parent.iterdir() if ".tmp-" not in path.name}
        assert reported <= visible
        for name in visible:
            assert verify(parent / name).size_bytes == 100_000


def test_sweeping_removes_what_crashes_left_and_nothing_else(directory: Path) -> None:
    """Temporary directories go, real ones stay."""
    left = directory.with_name("ckpt-000002.tmp-123")
    shutil.copytree(directory, left)
    assert sweep_temporaries(directory.parent) == [left]
    assert list(directory.parent.iterdir()) == [directory]


def test_sweeping_leaves_what_a_living_writer_fills(tmp_path: Path) -> None:
    """It asks the kernel who lives; also a folder that is swept before its writer holds it costs nothing."""

    def fill_and_sweep(folder: Path) -> None:
        assert sweep_temporaries(tmp_path) == []
        fill(folder)

    publish(tmp_path / "target", fill_and_sweep)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    sweeper = "import sys, pathlib; from thirdshift.storage.temporaries import sweep_temporaries as sweep\nwhile 1: "
    with subprocess.Popen([sys.executable, "-c", f"{sweeper}sweep(pathlib.Path(sys.argv[1]))", tmp_path]) as process:
        for number in range(100):
            publish(tmp_path / str(number), fill)
        process.kill()
    assert all(verify(tmp_path / str(number)) for number in range(100))


def test_a_publication_whose_name_may_be_lost_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refuses the last sync, that of the folder with the name: who is told of it finds nothing."""
    synced: list[Path] = []

    def refuse(directory: Path) -> None:
        synced.append(directory)
        if directory == tmp_path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("thirdshift.storage.verified.sync_directory", refuse)

    def fill(folder: Path) -> None:
        (folder / "a").write_text("a")

    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        publish(tmp_path / "whole", fill)
    assert synced[-1] == tmp_path
    assert list(tmp_path.iterdir()) == []
