"""Dropped files are found once each, oldest first, and not before they are whole."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from thirdshift.apps.training.inbox.watcher import FileWatcher


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watcher(tmp_path: Path, clock: Clock) -> FileWatcher:
    return FileWatcher(tmp_path, settle_s=1.0, events=False, clock=clock)


@pytest.fixture
def look(watcher: FileWatcher, clock: Clock) -> Callable[[], list[str]]:
    """Look twice, two seconds apart; the names of the new files."""

    def look_twice() -> list[str]:
        watcher.get_new_files()
        clock.advance(2)
        return [path.name for path in watcher.get_new_files()]

    return look_twice


def drop(path: Path, content: str = "{}", modified_s: float = 1000) -> Path:
    path.write_text(content)
    os.utime(path, (modified_s, modified_s))
    return path


def test_files_come_oldest_first_then_by_name(tmp_path: Path, look: Callable[[], list[str]]) -> None:
    """The time of the last change decides."""
    drop(tmp_path / "young.jsonl", modified_s=3000)
    drop(tmp_path / "b.jsonl", modified_s=2000)
    drop(tmp_path / "a.jsonl", modified_s=2000)
    drop(tmp_path / "old.jsonl", modified_s=1000)
    assert look() == ["old.jsonl", "a.jsonl", "b.jsonl", "young.jsonl"]


def test_each_arrival_comes_until_it_is_marked_and_then_never_again(
    tmp_path: Path, watcher: FileWatcher, look: Callable[[], list[str]]
) -> None:
    """Also when it is renamed within the folder."""
    path = drop(tmp_path / "a.jsonl")
    assert look() == ["a.jsonl"]
    assert look() == ["a.jsonl"]
    watcher.mark_processed(path)
    assert look() == []
    path.rename(tmp_path / "b.jsonl")
    assert look() == []


def test_a_new_file_under_an_old_name_is_new(
    tmp_path: Path, watcher: FileWatcher, look: Callable[[], list[str]]
) -> None:
    """Whether the old one was moved away or replaced, and though the system may give the new one the old inode."""
    path = drop(tmp_path / "a.jsonl", modified_s=1000)
    look()
    watcher.mark_processed(path)
    drop(tmp_path / "other", modified_s=1000).replace(path)
    assert look() == ["a.jsonl"]
    watcher.mark_processed(path)
    path.unlink()
    assert look() == []
    drop(path, modified_s=1000)
    assert look() == ["a.jsonl"]
    watcher.mark_processed(path)
    path.unlink()
    drop(path, modified_s=1001)
    assert look() == ["a.jsonl"]


def test_marking_means_the_file_that_was_returned(
    tmp_path: Path, watcher: FileWatcher, look: Callable[[], list[str]]
) -> None:
    """A file that took the name between the look and the mark is not lost."""
    path = drop(tmp_path / "a.jsonl")
    look()
    path.rename(tmp_path / "moved-on")
    drop(path, "new")
    watcher.mark_processed(path)
    assert look() == ["a.jsonl"]


def test_a_file_that_is_still_written_is_not_taken(tmp_path: Path, watcher: FileWatcher, clock: Clock) -> None:
    """Size and time of change must stay the same for a second; each change starts the second again."""
    path = drop(tmp_path / "a.jsonl", "1", modified_s=1000)
    assert watcher.get_new_files() == []
    clock.advance(0.9)
    assert watcher.get_new_files() == []
    drop(path, "12", modified_s=1000)
    clock.advance(0.2)
    assert watcher.get_new_files() == []
    clock.advance(0.9)
    drop(path, "34", modified_s=1001)
    assert watcher.get_new_files() == []
    clock.advance(0.9)
    assert watcher.get_new_files() == []
    clock.advance(0.1)
    assert watcher.get_new_files() == [path]


def test_a_single_look_is_never_enough(tmp_path: Path, watcher: FileWatcher, clock: Clock) -> None:
    """However old a file claims to be."""
    drop(tmp_path / "a.jsonl", modified_s=1)
    clock.advance(1000)
    assert watcher.get_new_files() == []


def test_only_plain_visible_files_count(tmp_path: Path, watcher: FileWatcher, look: Callable[[], list[str]]) -> None:
    """No links, FIFOs, hidden files or other endings; what has such a name and is none of these is told apart."""
    target = drop(tmp_path / "target.txt")
    (tmp_path / "link.jsonl").symlink_to(target)
    os.mkfifo(tmp_path / "fifo.jsonl")
    drop(tmp_path / ".hidden.jsonl")
    drop(tmp_path / "x.json")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link-to-folder.jsonl").symlink_to(tmp_path / "folder")
    drop(tmp_path / "good.jsonl")
    assert look() == ["good.jsonl"]
    irregular = [path.name for path in watcher.get_irregular()]
    assert irregular == ["fifo.jsonl", "folder.jsonl", "link-to-folder.jsonl", "link.jsonl"]


def test_another_pattern_can_be_watched(tmp_path: Path, clock: Clock) -> None:
    """The pattern is that of the shell."""
    drop(tmp_path / "a.csv")
    drop(tmp_path / "a.jsonl")
    watcher = FileWatcher(tmp_path, "*.csv", settle_s=0, events=False, clock=clock)
    assert watcher.get_new_files() == [tmp_path / "a.csv"]
