"""A file is taken the moment its writer is done with it; without events it is found by looking."""

import os
import resource
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from thirdshift.apps.training.inbox.watcher import FileWatcher
from thirdshift.host.writers import is_open_for_writing

LONG_S = 1000.0
"""A time to settle that no test waits for."""

pytestmark = pytest.mark.skipif(not Path("/proc/sys/fs/inotify").exists(), reason="this system has no inotify")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def watcher(inbox: Path, told: list[str]) -> Iterator[FileWatcher]:
    watcher = FileWatcher(inbox, settle_s=LONG_S, say=told.append)
    yield watcher
    watcher.close()


def names(watcher: FileWatcher) -> list[str]:
    return sorted(path.name for path in watcher.get_new_files())


def test_a_closed_file_is_taken_at_once(inbox: Path, watcher: FileWatcher) -> None:
    """Whoever sleeps on the watcher is woken by it; one that a process writes to is not taken before."""
    with (inbox / "a.jsonl").open("w") as file:
        file.write("{}\n")
        file.flush()
        assert names(watcher) == []
    assert select.select([watcher], [], [], 10)[0] == [watcher]
    assert names(watcher) == ["a.jsonl"]
    assert select.select([watcher], [], [], 0)[0] == []
    watcher.mark_processed(inbox / "a.jsonl")
    assert names(watcher) == []


def test_what_is_renamed_or_linked_in_is_taken_at_once(inbox: Path, watcher: FileWatcher) -> None:
    """A download that renames at the end, a move from a folder beside it, a link."""
    (inbox / ".a.part").write_text("{}\n")
    (inbox / ".a.part").rename(inbox / "a.jsonl")
    (inbox.parent / "b").write_text("{}\n")
    (inbox.parent / "b").rename(inbox / "b.jsonl")
    (inbox / ".c.part").write_text("{}\n")
    os.link(inbox / ".c.part", inbox / "c.jsonl")
    assert names(watcher) == ["a.jsonl", "b.jsonl"], "its other name may be about to go"
    (inbox / ".c.part").unlink()
    assert names(watcher) == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_file_that_is_opened_again_waits(inbox: Path, watcher: FileWatcher) -> None:
    """Until it is closed again."""
    path = inbox / "a.jsonl"
    path.write_text("{}\n")
    with path.open("a") as file:
        file.write("{}\n")
        assert names(watcher) == []
    assert names(watcher) == ["a.jsonl"]


def test_an_empty_file_may_be_one_that_is_only_begun(inbox: Path, watcher: FileWatcher) -> None:
    """It has to settle."""
    (inbox / "a.jsonl").touch()
    assert names(watcher) == []
    (inbox / "a.jsonl").write_text("{}\n")
    assert names(watcher) == ["a.jsonl"]


def test_what_lay_there_before_has_to_settle(inbox: Path) -> None:
    """And however long it does, it is not taken while a process has it open for writing, which is told once."""
    path = inbox / "a.jsonl"
    told: list[str] = []
    with path.open("w") as file:
        file.write("{}\n")
        file.flush()
        watcher = FileWatcher(inbox, settle_s=0, say=told.append)
        assert [names(watcher) for _ in range(3)] == [[], [], []]
    assert names(watcher) == ["a.jsonl"]
    assert told == ["a.jsonl waits: a process has it open for writing"]
    watcher.close()


def test_another_folder_in_the_place_of_the_old_one_is_watched(
    inbox: Path, watcher: FileWatcher, told: list[str]
) -> None:
    """Somebody moves the inbox away and makes a new one."""
    inbox.rename(inbox.with_name("old"))
    watcher.drain()
    inbox.mkdir()
    assert names(watcher) == []
    (inbox / "a.jsonl").write_text("{}\n")
    assert names(watcher) == ["a.jsonl"]
    assert len(told) == 1


def test_without_events_files_are_found_by_looking(inbox: Path, told: list[str]) -> None:
    """No descriptor is left for the events, which is said once."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        watcher = FileWatcher(inbox, settle_s=0, say=told.append)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not watcher.has_events
    (inbox / "a.jsonl").write_text("{}\n")
    assert names(watcher) == ["a.jsonl"]
    assert told == ["inbox: no file-system events (Too many open files); files are found by looking, a little later"]


def test_more_events_than_the_system_keeps_are_told_once(inbox: Path, told: list[str]) -> None:
    """What was lost is found by looking."""
    kept = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    watcher = FileWatcher(inbox, settle_s=0, say=told.append)
    for number in range(kept + 2):
        os.close(os.open(inbox / f"{number % 2}.jsonl", os.O_WRONLY | os.O_CREAT, 0o600))
    assert names(watcher) == ["0.jsonl", "1.jsonl"]
    (inbox / "2.jsonl").write_text("{}\n")
    assert names(watcher) == ["0.jsonl", "1.jsonl", "2.jsonl"]
    assert told == [
        "inbox: more arrived at once than the system keeps events of; files are found by looking, a little later"
    ]
    watcher.close()


def test_the_kernel_knows_who_writes(tmp_path: Path) -> None:
    """A reader is no writer; asking disturbs neither."""
    path = tmp_path / "a"
    path.write_text("one")
    with path.open() as reader:
        assert is_open_for_writing(path) is False
        assert reader.read() == "one"
    with path.open("a") as writer:
        assert is_open_for_writing(path) is True
        writer.write(" two")
    assert is_open_for_writing(path) is False
    assert path.read_text() == "one two"
