"""``thirdshift torture``: goes on where it was, makes one case again, and says by its exit code whether all held."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from thirdshift.core.errors import UsageError
from thirdshift.testing.torture.checker import Violation
from thirdshift.testing.torture.harness import Verdict
from thirdshift.testing.torture.session import Torture

COMMAND = str(Path(sys.executable).with_name("thirdshift"))


class Broken:
    """A harness of ten cases, of which two find something; its planted fault is found at once, or never."""

    name = "broken"
    what = "finds something"
    controls: Mapping[str, int] = {"planted": 2}
    cases = 10

    def __init__(self, finds_faults: bool = True, bad: tuple[int, ...] = (3, 7)) -> None:
        self._finds_faults = finds_faults
        self._bad = bad
        self._has_fault = False

    def why_not(self) -> str | None:
        return None

    @contextmanager
    def open(self, folder: Path, kept: Path, seed: int, fault: str | None = None) -> Iterator["Broken"]:
        self._has_fault = fault is not None
        yield self

    def judge(self, number: int) -> Verdict:
        is_bad = self._finds_faults if self._has_fault else number in self._bad
        return Verdict(figures={"cases": 1}, violations=[Violation("I1", f"case {number}")] if is_bad else [])


class Unable(Broken):
    """A harness that cannot work here."""

    name = "unable"

    def why_not(self) -> str | None:
        return "there is no strace"


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    """Each run does a part; together they do every case once, and the report has what all of them found."""
    for _ in range(20):
        torture = Torture(tmp_path, 1, [Broken()], lambda _line: None)
        torture.run(0.0001)
    report = json.loads((tmp_path / "report.json").read_text())
    found = report["harnesses"]["broken"]
    assert found["figures"] == {"cases": 10}
    assert found["is_done"]
    assert [example["case"] for example in found["examples"]] == [3, 7]
    assert not torture.is_clean
    text = (tmp_path / "report.md").read_text()
    assert "**2 violations**" in text
    assert "thirdshift torture --seed 1 --case broken:7" in text


def test_another_seed_needs_another_folder(tmp_path: Path) -> None:
    """Figures of different seeds are not mixed."""
    Torture(tmp_path, 1, [Broken()], lambda _line: None).run(0)
    with pytest.raises(UsageError, match="--seed 1"):
        Torture(tmp_path, 2, [Broken()], lambda _line: None)


def test_a_harness_that_misses_its_planted_fault_does_not_count(tmp_path: Path) -> None:
    """It found nothing, and that proves nothing."""
    torture = Torture(tmp_path, 1, [Broken(finds_faults=False, bad=())], lambda _line: None)
    torture.run(5)
    assert not torture.is_clean
    assert "does not find the planted fault: planted" in (tmp_path / "report.md").read_text()


def test_what_cannot_work_here_is_skipped_and_says_why(tmp_path: Path) -> None:
    """The others have their turns."""
    torture = Torture(tmp_path, 1, [Unable(), Broken(bad=())], lambda _line: None)
    torture.run(5)
    assert torture.is_clean
    assert "| unable | skipped: there is no strace |" in (tmp_path / "report.md").read_text()


def test_one_case_by_the_command(tmp_path: Path) -> None:
    """It shows what happens in the case, and what was found."""
    arguments = [COMMAND, "torture", "--output", str(tmp_path / "out"), "--case", "simulation:5"]
    stories = [subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60) for _ in range(2)]
    assert [story.returncode for story in stories] == [0, 0]
    assert stories[0].stdout == stories[1].stdout
    assert stories[0].stdout.endswith("0 violations\n")
    assert not (tmp_path / "out").exists()


def test_a_run_by_the_command(tmp_path: Path) -> None:
    """The report lies where it was told to, the progress goes to standard error, the exit code says that all held."""
    arguments = ["torture", "--output", str(tmp_path), "--only", "simulation", "--minutes", "0.01"]
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Torture\n")
    assert "planted fault (has no fence): found" in done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["harnesses"]["simulation"]["figures"]["seeds"] >= 1


def test_an_unknown_harness_is_named(tmp_path: Path) -> None:
    """With those that there are."""
    done = subprocess.run(
        [COMMAND, "torture", "--only", "x"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 64
    assert "simulation" in done.stderr
