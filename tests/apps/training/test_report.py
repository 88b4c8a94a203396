"""One page over all files: nothing in it comes from elsewhere, and no name of a file can do harm in it."""

import csv
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from thirdshift.apps.training.job import OWN_EXAMINATION, Evaluation, FileResult
from thirdshift.apps.training.records.chart import Chart, Line, shortened, ticks
from thirdshift.apps.training.records.history import FAILED, HELD_BACK, PUBLISHED, History
from thirdshift.apps.training.records.report import Report
from thirdshift.apps.training.records.report_page import write_report
from thirdshift.apps.training.runs.loss_log import CurvePoint

HOSTILE = '<script>alert("1")</script>&.jsonl'


def examined(right: int) -> Evaluation:
    return Evaluation(asked=64, right=right, loss=0.5)


def add(history: History, key: str, file: str, outcome: str, earlier: dict[str, int], losses: Sequence[float]) -> None:
    result = FileResult(
        finished=True,
        step=len(losses),
        total_steps=len(losses),
        rows=100,
        tokens=1000,
        seconds=2.0,
        before={OWN_EXAMINATION: examined(0)},
        after={OWN_EXAMINATION: examined(60)},
        earlier_before={name: examined(64) for name in earlier},
        earlier_after={name: examined(right) for name, right in earlier.items()},
    )
    curve = [CurvePoint(step=step, loss=loss, lowest=loss, highest=loss) for step, loss in enumerate(losses, start=1)]
    causes = ("words.jsonl: exact match 100.0% before, 3.1% after",) if outcome == HELD_BACK else ()
    history.add(key, file=file, outcome=outcome, causes=causes, losses=curve, result=result.to_document())


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Two published files, one that was held back, one that failed."""
    history = History(tmp_path / "history")
    add(history, "words", "words.jsonl", PUBLISHED, {}, [4.0, 2.0, 1.0])
    add(history, "worse", HOSTILE, HELD_BACK, {"words": 2}, [3.0, 1.0])
    add(history, "birds", "birds.jsonl", PUBLISHED, {"words": 62}, [2.0, 0.01])
    history.add("broken", file="broken.jsonl", outcome=FAILED, causes=("broken.jsonl:3: not JSON",), result={})
    return history


class Page(HTMLParser):
    """Notes what a page refers to, and demands that every element is closed."""

    EMPTY = frozenset({"meta", "line", "rect", "circle", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.seen: set[str] = set()
        self.references: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.opened == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.references += [name for name, _ in attrs if name in ("src", "href") or name.startswith("on")]
        if tag not in self.EMPTY:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_shows_every_file_and_why_some_are_not_in_the_model(history: History, tmp_path: Path) -> None:
    """It needs no script and no network; a hostile name is only shown."""
    path = write_report(Report(history), tmp_path / "reports")
    page = Page(path.read_text())
    assert page.references == []
    assert "script" not in page.seen
    assert "2 of 4 files are in the model: 300 rows, 3,000 tokens, 6 seconds of training." in page.words
    for words in (
        "words.jsonl",
        HOSTILE,
        "held back",
        "broken.jsonl:3: not JSON",
        "exact match 100.0% before, 3.1% after",
    ):
        assert words in page.words
    assert {path.name for path in path.parent.iterdir()} == {
        "report.html",
        "loss.svg",
        "loss.csv",
        "exact_match.svg",
        "exact_match.csv",
    }


def test_the_document_tells_what_was_forgotten(history: History) -> None:
    """A row for each trained file: the exact match of every examined one, its own among them."""
    document = Report(history).document()
    assert [row["exact_match"] for row in document["forgetting"]] == [
        {"words": 60 / 64},
        {"words": 2 / 64, "worse": 60 / 64},
        {"words": 62 / 64, "birds": 60 / 64},
    ]
    assert [line["outcome"] for line in document["files"]] == [PUBLISHED, HELD_BACK, PUBLISHED, FAILED]
    assert document["totals"] == {"files": 4, "published": 2, "rows": 300, "tokens": 3000, "seconds": 6.0}


def test_the_curves_are_there_as_csv_too(history: History, tmp_path: Path) -> None:
    """Losses by file and step; examinations with both moments."""
    write_report(Report(history), tmp_path / "reports")
    with (tmp_path / "reports" / "loss.csv").open(newline="") as file:
        losses = list(csv.DictReader(file))
    assert [(line["file"], line["step"], line["loss"]) for line in losses[2:4]] == [
        ("words.jsonl", "3", "1.0"),
        (HOSTILE, "1", "3.0"),
    ]
    with (tmp_path / "reports" / "exact_match.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["record"], line["examination"], line["before"], line["after"]) for line in lines[1:3]] == [
        ("worse", OWN_EXAMINATION, "0.0", "0.9375"),
        ("worse", "words", "1.0", "0.03125"),
    ]


def test_a_damaged_record_is_told_and_an_empty_history_is_a_page(history: History, tmp_path: Path) -> None:
    """What cannot be read is named; the rest is shown."""
    (history.directory / "words" / "manifest.json").write_text("{}")
    page = Page(write_report(Report(history), tmp_path / "reports").read_text())
    assert "The record words is damaged" in page.words
    nothing = Page(write_report(Report(History(tmp_path / "none")), tmp_path / "none reports").read_text())
    assert "No training has ended yet." in nothing.words


class TestChart:
    def chart(self, **options: object) -> Chart:
        given = {"title": "a & b", "x_name": "x", "y_name": "y", "lines": [Line(name="<one>", points=[(0, 1), (9, 4)])]}
        return Chart(**{**given, **options})  # type: ignore[arg-type]

    def test_a_chart_is_a_document_of_its_own(self) -> None:
        """Every point lies inside, also with one point, none, or the same value everywhere."""
        lines = [
            [Line(name="<one>", points=[(0, 1), (9, 4)]), Line(name="two", points=[(3, 2)], has_dots=True)],
            [Line(name="flat", points=[(1, 2), (5, 2)])],
            [Line(name="none", points=[])],
            [Line(name="zero", points=[(0, 0), (1, 0)])],
        ]
        for each in lines:
            for is_logarithmic in (False, True):
                root = ET.fromstring(self.chart(lines=each, is_logarithmic=is_logarithmic).svg())
                _, _, width, height = map(float, root.attrib["viewBox"].split())
                drawn = [
                    place
                    for line in root.iter()
                    if line.tag.endswith("polyline")
                    for place in line.attrib["points"].split()
                ]
                assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in (p.split(",") for p in drawn))

    def test_ticks_are_round_numbers(self) -> None:
        """Steps of one, two or five times a power of ten."""
        assert ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
        assert ticks(3, 997, 8) == [200, 400, 600, 800]
        assert ticks(0.5, 3.5, 5) == [1, 2, 3]

    def test_a_long_name_loses_its_middle(self) -> None:
        """The end often tells names apart."""
        assert shortened("auto_gen_20261127_181500.jsonl", 15) == "auto_ge…0.jsonl"
        assert shortened("short", 15) == "short"
