"""A file laid into the control folder is a word to the daemon."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from thirdshift.apps.training.control import WORDS, ControlFolder
from thirdshift.core.errors import UsageError


class Clock:
    """Unix seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def control(tmp_path: Path, clock: Clock) -> ControlFolder:
    return ControlFolder(tmp_path, clock=clock)


def test_every_word_is_taken_once(control: ControlFolder) -> None:
    """And its file is gone."""
    for word in WORDS:
        assert control.request(word).name == f".{word}"
    assert sorted(control.take()) == sorted(WORDS)
    assert control.take() == []
    assert list(control.control_dir.iterdir()) == []


def test_words_come_in_the_order_in_which_they_were_laid(control: ControlFolder, clock: Clock) -> None:
    """A word that lies there already keeps its place."""
    for word in ("trigger_snapshot", "pause", "resume", "pause"):
        control.request(word)
        clock.seconds += 0.001
    assert control.take() == ["trigger_snapshot", "pause", "resume"]


def test_a_word_can_be_laid_from_the_shell(control: ControlFolder) -> None:
    """touch is enough; other files in the folder are nobody's word."""
    (control.control_dir / ".stop").touch()
    (control.control_dir / ".explode").touch()
    (control.control_dir / "skip").touch()
    assert control.take() == ["stop"]


def test_an_unknown_word_is_refused(control: ControlFolder) -> None:
    """With the words there are; a path is no word either."""
    for word in ("explode", "", "../stop", ".stop"):
        with pytest.raises(UsageError, match="no control word; known are stop, stop_after_file"):
            control.request(word)


def test_what_is_no_file_blocks_nothing(control: ControlFolder, tmp_path: Path) -> None:
    """A folder is passed over; a link is taken as a word and what it leads to stays."""
    (control.control_dir / ".stop").mkdir()
    target = tmp_path / "precious"
    target.touch()
    (control.control_dir / ".pause").symlink_to(target)
    os.mkfifo(control.control_dir / ".skip")
    assert sorted(control.take()) == ["pause", "skip"]
    assert target.exists()


def test_a_pause_survives_a_restart_and_says_since_when(control: ControlFolder, clock: Clock) -> None:
    """Asked for twice, it keeps its beginning."""
    assert not control.is_paused
    assert control.paused_since is None
    control.set_paused(True)
    clock.seconds += 60
    control.set_paused(True)
    restarted = ControlFolder(control.control_dir)
    assert restarted.is_paused
    assert restarted.paused_since == datetime.fromtimestamp(1_800_000_000, UTC)
    restarted.set_paused(False)
    restarted.set_paused(False)
    assert (control.is_paused, control.paused_since) == (False, None)


def test_a_damaged_pause_is_still_a_pause(control: ControlFolder) -> None:
    """A person asked for it; the time of the file stands for what cannot be read."""
    path = control.control_dir / "paused"
    for content in (b"", b"{", b"[]", b'{"since": 5}'):
        path.write_bytes(content)
        os.utime(path, (1000, 1000))
        assert control.is_paused
        assert control.paused_since == datetime.fromtimestamp(1000, UTC)


def test_stale_words_are_cleared_at_start_and_the_rest_is_kept(control: ControlFolder) -> None:
    """Every stop, skip and resume meant the last daemon; a pause and the triggers are served once by the next."""
    for word in WORDS:
        control.request(word)
    control.set_paused(True)
    assert sorted(control.clear_stale()) == ["resume", "skip", "stop", "stop_after_file", "stop_now"]
    assert sorted(control.take()) == ["pause", "trigger_consolidation", "trigger_retention", "trigger_snapshot"]
    assert control.is_paused
