"""A folder says which of its files were written to."""

import select
from pathlib import Path

import pytest

from thirdshift.host.inotify import FolderWatch


def test_writes_are_seen_by_name(tmp_path: Path) -> None:
    """Of all files, also new ones; the descriptor can be waited for."""
    watch = FolderWatch(tmp_path)
    try:
        assert watch.names() == set()
        for name in ("one", "two-with-a-longer-name", "drei-ü"):
            (tmp_path / name).write_text("content")
        assert select.select([watch], [], [], 10)[0] == [watch]
        assert watch.names() == {"one", "two-with-a-longer-name", "drei-ü"}
        assert select.select([watch], [], [], 0)[0] == []
        with (tmp_path / "one").open("a") as file:
            file.write("more")
        assert watch.names() == {"one"}
    finally:
        watch.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The error names it."""
    with pytest.raises(FileNotFoundError) as caught:
        FolderWatch(tmp_path / "nowhere")
    assert caught.value.filename == str(tmp_path / "nowhere")
