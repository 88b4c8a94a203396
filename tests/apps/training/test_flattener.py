"""Files inside dropped folders move up to the inbox."""

import os
from pathlib import Path

import pytest

from thirdshift.apps.training.inbox.flattener import InboxFlattener
from thirdshift.apps.training.inbox.watcher import FileWatcher


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def flattener(inbox: Path) -> InboxFlattener:
    """One that takes every file at the first look."""
    return InboxFlattener(inbox, settle_s=0)


def drop(path: Path, content: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def found(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_files_move_up_from_any_depth_and_emptied_folders_go(inbox: Path, flattener: InboxFlattener) -> None:
    """What was moved from where to where is returned."""
    one, two = drop(inbox / "a" / "one.jsonl"), drop(inbox / "b" / "c" / "d" / "two.jsonl")
    assert sorted(flattener.flatten()) == [(one, inbox / "one.jsonl"), (two, inbox / "two.jsonl")]
    assert found(inbox) == ["one.jsonl", "two.jsonl"]
    assert flattener.flatten() == []


def test_a_namesake_is_never_overwritten(inbox: Path, flattener: InboxFlattener) -> None:
    """All of one name arrive, with all their contents."""
    drop(inbox / "x.jsonl", "top")
    drop(inbox / "a" / "x.jsonl", "a")
    drop(inbox / "b" / "x.jsonl", "b")
    flattener.flatten()
    assert found(inbox) == ["x-1.jsonl", "x-2.jsonl", "x.jsonl"]
    assert (inbox / "x.jsonl").read_text() == "top"
    assert {(inbox / f"x-{number}.jsonl").read_text() for number in (1, 2)} == {"a", "b"}


def test_folders_that_still_hold_something_stay(inbox: Path, flattener: InboxFlattener) -> None:
    """Other files, and folders that were empty before: somebody may be about to fill them."""
    drop(inbox / "a" / "readme.txt")
    drop(inbox / "a" / "b" / "one.jsonl")
    (inbox / "fresh").mkdir()
    flattener.flatten()
    assert found(inbox) == ["a", "a/readme.txt", "fresh", "one.jsonl"]


def test_a_file_that_is_still_written_waits(inbox: Path) -> None:
    """The same rule as the watcher's: unchanged between two looks a second apart."""
    clock = Clock()
    flattener = InboxFlattener(inbox, settle_s=1, clock=clock)
    path = drop(inbox / "a" / "one.jsonl", "half")
    assert flattener.flatten() == []
    clock.seconds += 0.5
    path.write_text("whole by now")
    clock.seconds += 0.6
    assert flattener.flatten() == []
    clock.seconds += 1
    assert flattener.flatten() == [(path, inbox / "one.jsonl")]


def test_links_move_as_links_and_hidden_files_and_directories_called_jsonl_are_left_alone(
    inbox: Path, flattener: InboxFlattener, tmp_path: Path
) -> None:
    """Nothing is fetched from outside, and what the watcher has to report stays for it."""
    outside = drop(tmp_path / "outside" / "secret.jsonl")
    (inbox / "link").symlink_to(outside.parent)
    drop(inbox / "a" / "keep.txt")
    (inbox / "a" / "link.jsonl").symlink_to(outside)
    os.mkfifo(inbox / "a" / "fifo.jsonl")
    drop(inbox / "a" / ".partial.jsonl")
    drop(inbox / ".sync" / "one.jsonl")
    drop(inbox / "odd.jsonl" / "inner.jsonl")
    (inbox / "a" / "odd.jsonl").mkdir()
    before = found(inbox)
    assert sorted(new.name for _, new in flattener.flatten()) == ["fifo.jsonl", "link.jsonl"]
    moved = {"a/fifo.jsonl": "fifo.jsonl", "a/link.jsonl": "link.jsonl"}
    assert found(inbox) == sorted(moved.get(name, name) for name in before)
    assert (inbox / "link.jsonl").readlink() == outside
    assert outside.exists()


def test_a_move_that_a_crash_interrupted_is_finished_before_the_file_is_taken(inbox: Path) -> None:
    """A crash left one file under both names: after the first pass it has one, so it is trained once."""
    clock = Clock()
    flattener = InboxFlattener(inbox, settle_s=1, clock=clock)
    watcher = FileWatcher(inbox, settle_s=1, clock=clock)
    path = drop(inbox / "a" / "b" / "one.jsonl")
    os.link(path, inbox / "one.jsonl")
    taken = []
    for _ in range(4):
        flattener.flatten()
        for new in watcher.get_new_files():
            taken.append(new)
            new.unlink()
        clock.seconds += 1
    assert taken == [inbox / "one.jsonl"]
    assert found(inbox) == []


def test_hard_links_of_a_file_elsewhere_are_ordinary_files(inbox: Path, flattener: InboxFlattener) -> None:
    """A tree that was dropped with cp --link arrives like any other."""
    original = drop(inbox.parent / "original.jsonl")
    (inbox / "a").mkdir()
    os.link(original, inbox / "a" / "one.jsonl")
    flattener.flatten()
    assert found(inbox) == ["one.jsonl"]
