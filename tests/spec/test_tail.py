"""What an attempt writes is kept in bounded memory: the end of it, and how much is missing."""

import logging

import pytest

from thirdshift.runtime.records import TaskLog, keep_record
from thirdshift.runtime.tail import TAIL_BYTES, Tail


def test_nothing_is_none() -> None:
    """Nobody wrote anything: that is not an empty text."""
    tail = Tail()
    assert tail.take() is None
    tail.add(b"")
    assert tail.take() is None


def test_what_was_taken_is_gone() -> None:
    """The next attempt begins anew."""
    tail = Tail()
    tail.add(b"first")
    assert tail.take() == "first"
    tail.add(b"second")
    assert tail.take() == "second"


@pytest.mark.parametrize("chunk", [1, 1000, TAIL_BYTES, 10 * TAIL_BYTES])
def test_the_end_is_kept_and_the_rest_counted(chunk: int) -> None:
    """Whatever the pieces are."""
    tail = Tail()
    total = 0
    while total < 3 * TAIL_BYTES:
        tail.add(b"x" * (chunk - 1) + b"y")
        total += chunk
    text = tail.take()
    assert text is not None
    head, _, kept = text.partition("\n")
    assert head == f"… {total - TAIL_BYTES:,} bytes left out"
    assert len(kept) == TAIL_BYTES
    assert kept.endswith("y")


def test_bytes_that_are_no_text_are_shown_as_what_they_are() -> None:
    """Output may be anything, also half a character."""
    tail = Tail()
    tail.add(b"caf\xc3")
    assert tail.take() == "caf\\xc3"


def test_a_record_is_one_line_with_its_traceback() -> None:
    """With moment, level and logger."""
    kept: list[str] = []
    try:
        raise ValueError("no")
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
        record = logging.LogRecord("app.mail", logging.ERROR, "", 0, "sending %s failed", ("a",), trace)
    record.created, record.msecs = 0.5, 500.0
    keep_record(record, kept.append)
    (line,) = kept
    assert line.startswith("1970-01-01T00:00:00.500Z ERROR app.mail: sending a failed\nTraceback (most recent call")
    assert line.endswith("ValueError: no\n")


def test_a_record_whose_arguments_do_not_fit_hurts_nobody() -> None:
    """Logging itself says so where the record is shown."""
    kept: list[str] = []
    keep_record(logging.LogRecord("app", logging.ERROR, "", 0, "%d", ("a",), None), kept.append)
    assert kept == []


def test_the_log_of_a_task_names_the_line_that_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Applications show it; the wrapper between must not stand in its place."""
    kept: list[str] = []
    with caplog.at_level(logging.DEBUG):
        TaskLog({"task_id": "1"}, kept.append).warning("seen")
        TaskLog({"task_id": "1"}, kept.append).debug("too fine to be kept")
    assert [record.funcName for record in caplog.records] == ["test_the_log_of_a_task_names_the_line_that_logs"] * 2
    assert [line.partition(" ")[2] for line in kept] == ["WARNING thirdshift.task: seen\n"]
