"""What became of each file stays: its attempts, what it cost and brought, and what later files need of it."""

import json
import shutil
from pathlib import Path

import pytest

from thirdshift.apps.training.data.row_files import read_row_file
from thirdshift.apps.training.data.rows import parse_row
from thirdshift.apps.training.records.attempts import KILLED, AttemptLog
from thirdshift.apps.training.records.history import EXAMINATION, HELD_BACK, PUBLISHED, REPLAY, History

ROW = parse_row(json.dumps({"prompt": "a", "completion": "b"}))


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history", clock=lambda: 1_790_000_000.0)


def add(history: History, key: str, outcome: str = PUBLISHED) -> None:
    history.add(key, file=f"{key}.jsonl", outcome=outcome, examination=[ROW], replay=[ROW, ROW], result={"step": 3})


def test_records_stand_in_the_order_of_their_ends(history: History) -> None:
    """Names and clocks do not count."""
    for key in ("words", "animals", "zoo"):
        add(history, key)
    assert [(record.number, record.file) for record in history.records()] == [
        (1, "words.jsonl"),
        (2, "animals.jsonl"),
        (3, "zoo.jsonl"),
    ]
    assert [record.key for record in history.of_file("animals.jsonl")] == ["animals"]
    assert list(read_row_file(history.directory / "zoo" / REPLAY)) == [ROW, ROW]


def test_an_end_is_recorded_once_and_another_end_beside_it(history: History) -> None:
    """Written again after a crash it is the same record; held back first and published later there are two."""
    add(history, "words", HELD_BACK)
    add(history, "words", HELD_BACK)
    add(history, "words")
    add(history, "words")
    assert [record.outcome for record in history.records()] == [HELD_BACK, PUBLISHED]
    assert len(history.of_file("words.jsonl")) == 2


def test_what_is_damaged_or_gone_is_told_from_the_rest(history: History) -> None:
    """A damaged record is named and the others are read; a removed one is forgotten."""
    for key in ("words", "animals", "zoo"):
        add(history, key)
    (history.directory / "words" / "manifest.json").write_text("{}")
    shutil.rmtree(history.directory / "zoo")
    assert [record.key for record in history.records()] == ["animals"]
    assert history.damaged() == [history.directory / "words"]


def test_an_interrupted_record_leaves_nothing(history: History) -> None:
    """What a killed writer left is no record, and is swept by the next."""
    left = history.directory / "words.tmp-123"
    left.mkdir(parents=True)
    assert history.records() == history.damaged() == []
    add(history, "zoo")
    assert [path.name for path in history.directory.iterdir()] == ["zoo"]
    assert {path.name for path in (history.directory / "zoo").iterdir()} >= {EXAMINATION, REPLAY, "loss.csv"}


def test_a_persons_word_holds_until_it_was_used(history: History) -> None:
    """It is about the content, not the name, and survives restarts."""
    history.accept("abc")
    assert History(history.directory).is_accepted("abc")
    assert not history.is_accepted("def")
    history.forget_acceptance("abc")
    history.forget_acceptance("abc")
    assert not history.is_accepted("abc")
    assert history.records() == []


def test_attempts_are_noted_and_killed_ones_are_told(tmp_path: Path) -> None:
    """One that did not come to its end was killed; a line that a crash cut short harms no other."""
    seconds = iter(range(100))
    log = AttemptLog(tmp_path, clock=lambda: float(next(seconds)))
    log.begin()
    with (tmp_path / "attempts.jsonl").open("ab") as file:
        file.write(b'{"ended_at": "19')
    log.begin()
    log.end("stopped", 7)
    log.begin()
    first, second, third = log.read()
    assert (first.how, first.ended_at) == (KILLED, "")
    assert (second.how, second.step, second.ended_at) == ("stopped", 7, "1970-01-01T00:00:02.000000+00:00")
    assert third.how == KILLED
    assert [each["how"] for each in log.with_end("finished", 9)] == [KILLED, "stopped", "finished"]
    assert len(log.read()) == 3
