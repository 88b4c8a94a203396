"""`thirdshift bench`: figures of this disk, and what follows from them."""

import pytest

from thirdshift.testing.bench import _verdicts

RATES = {
    "submit, relaxed": 30_000.0,
    "submit, full": 240.0,
    "submit, full, 64 threads": 4_000.0,
    "submit_many, full": 90_000.0,
    "tasks through a worker, full": 8_000.0,
}


@pytest.mark.alone
def test_the_figures_are_of_the_folder_and_leave_nothing(shell, tmp_path) -> None:
    """In both forms; the store that is measured is deleted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    report = shell.json("bench", "--seconds", "0.05", "--on", str(disk))
    assert report["folder"].startswith(str(disk))
    figures = {figure["name"]: figure["value"] for figure in report["figures"]}
    assert set(figures) == {*RATES, "fsync", "idle worker, processor"} | {
        f"submit to result, {durability}, {share}"
        for durability in ("relaxed", "full")
        for share in ("half of all", "99 of 100")
    }
    assert all(value > 0 for name, value in figures.items() if name != "idle worker, processor")
    assert figures["submit_many, full"] > figures["submit, full"]
    assert len(report["verdicts"]) == 3
    assert list(disk.iterdir()) == []
    done = shell("bench", "--seconds", "0.05")
    assert done.returncode == 0
    assert "measuring: fsync …" in done.stderr
    assert "A sync takes" in done.stdout
    assert list(shell.workspace.iterdir()) == []


@pytest.mark.parametrize(
    ("sync_ms", "relaxed", "words"),
    [
        (4.2, 30_000.0, ["A sync takes 4.20 ms on this disk (ext4), which bounds", "needs none (30,000/s)"]),
        (0.3, 300.0, ["that is quick", "durability='relaxed' would gain little here"]),
        (0.001, 30_000.0, ["A sync takes 1 µs: no disk is that quick", "larger pieces"]),
    ],
)
def test_the_verdict_follows_from_the_figures(sync_ms: float, relaxed: float, words: list[str]) -> None:
    """What somebody can do who finds it too slow, and whether 'full' can be trusted."""
    said = "\n".join(_verdicts({**RATES, "submit, relaxed": relaxed, "fsync": sync_ms}, "ext4"))
    for each in words:
        assert each in said


def test_a_folder_that_is_not_there_is_refused(shell) -> None:
    """Before anything is measured."""
    done = shell("bench", "--on", "/no/such/folder")
    assert (done.returncode, "does not exist" in done.stderr) == (64, True)
