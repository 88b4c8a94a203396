"""The disk guard refuses before the disk is full."""

from pathlib import Path
from typing import NamedTuple

import pytest

from thirdshift.core.errors import DiskTooFull
from thirdshift.host.disk import DiskGuard


class Usage(NamedTuple):
    """What a disk of 100 GB reports."""

    free: int
    total: int = 100 * 10**9


@pytest.mark.parametrize(
    ("free_gb", "level"), [(100, "ok"), (50, "ok"), (49.99, "low"), (10, "low"), (9.99, "full"), (0, "full")]
)
def test_the_level_says_how_urgent_it_is(tmp_path: Path, free_gb: float, level: str) -> None:
    """Under 50 GB the disk is low, under 10 GB it is full; the limits themselves are still fine."""
    state = DiskGuard(usage=lambda _: Usage(int(free_gb * 10**9))).check(tmp_path)
    assert (state.free_gb, state.total_gb, state.level) == (free_gb, 100, level)


def test_the_limits_can_be_chosen(tmp_path: Path) -> None:
    """A small demonstration workspace sets limits that fit it."""
    guard = DiskGuard(min_free_gb=0.5, warn_free_gb=2, usage=lambda _: Usage(10**9))
    assert guard.check(tmp_path).level == "low"
    assert guard.require(tmp_path).level == "low"


def test_a_full_disk_is_refused_with_both_figures(tmp_path: Path) -> None:
    """The error says what is free, what is demanded, where, and which setting lowers it."""
    guard = DiskGuard(usage=lambda _: Usage(1_500_000_000))
    with pytest.raises(DiskTooFull, match=rf"1.50 GB are free on the disk of {tmp_path}, 10 GB.*disk.min_free_gb"):
        guard.require(tmp_path)


def test_space_that_comes_back_is_seen(tmp_path: Path) -> None:
    """Nothing is remembered from an earlier look."""
    free = [10**9]
    guard = DiskGuard(usage=lambda _: Usage(free[0]))
    assert guard.check(tmp_path).level == "full"
    free[0] = 60 * 10**9
    assert guard.require(tmp_path).level == "ok"


def test_the_real_disk_of_a_path_that_is_not_made_yet_is_looked_at(tmp_path: Path) -> None:
    """The file system that will hold the path answers, whatever of it is still missing."""
    planned = tmp_path / "backups" / "snapshots" / "one"
    state = DiskGuard(min_free_gb=0, warn_free_gb=0).check(planned)
    assert state.level == "ok"
    assert 0 < state.free_gb <= state.total_gb
    assert not planned.parent.parent.exists()
