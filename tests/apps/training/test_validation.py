"""A bad file is refused with its name, the line and the cause."""

import gzip
import os
from pathlib import Path

import pytest

from thirdshift.apps.training.validation import Level, ValidationReport, validate
from thirdshift.core.errors import NotSupported, UsageError

GOOD = '{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


def test_a_good_file_is_sound(path: Path) -> None:
    """Every line is counted; blank ones do not matter."""
    path.write_text(GOOD * 3 + "\n" + '{"prompt": "a", "completion": "b"}\n{"text": "c"}')
    report = validate(path)
    assert report == ValidationReport(file="data.jsonl", level="quick", rows=5)
    assert report.is_sound
    assert report.cause == ""


def test_bad_lines_are_named_with_their_causes(path: Path) -> None:
    """Reading goes on after the first one, so that its owner sees them together."""
    path.write_text(GOOD + "{not json}\n" + GOOD + '{"something": "else"}\n')
    report = validate(path)
    assert not report.is_sound
    assert report.rows == 2
    assert [problem.line for problem in report.problems] == [2, 4]
    assert report.cause.startswith("data.jsonl:2: not JSON")
    assert '"messages"' in report.problems[1].why


def test_of_very_many_bad_lines_the_first_are_listed(path: Path) -> None:
    """The report stays readable and says that there are more."""
    path.write_text("bad\n" * 500)
    report = validate(path)
    assert report.truncated
    assert len(report.problems) == 20


def test_the_report_is_plain_data(path: Path) -> None:
    """It lies beside the failed file as JSON."""
    path.write_text("[1]\n")
    assert validate(path).to_dict() == {
        "file": "data.jsonl",
        "level": "quick",
        "is_sound": False,
        "cause": "data.jsonl:1: holds a list; a row is a JSON object",
        "rows": 0,
        "problems": [{"line": 1, "why": "holds a list; a row is a JSON object"}],
        "truncated": False,
    }


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        (b"", None, "is empty"),
        (b"\n\n  \n", 1, "blank lines"),
        (GOOD.encode() + b"ab\0cd\n", 2, "NUL byte"),
        (GOOD.encode() + b"\xff\xfe\n", 2, "not UTF-8"),
        (gzip.compress(GOOD.encode()), None, "is compressed (gzip); unpack it first"),
        (b"PK\x03\x04 and so on", None, "is compressed (zip)"),
        (b"\x93\xf1\x07\xc8\x1e\x99\xfb" + b"\0" * 1000, 1, "NUL byte"),
        ("é".encode("utf-16"), 1, ""),
    ],
    ids=["empty", "blank", "nul", "latin", "gzip", "zip", "binary", "utf-16"],
)
def test_what_is_no_text_is_told_from_what_is_bad_text(path: Path, content: bytes, line: int | None, why: str) -> None:
    """An empty, a binary or a compressed file gets a cause that tells its owner what it is."""
    path.write_bytes(content)
    report = validate(path)
    assert not report.is_sound
    assert report.problems[0].line == line
    assert why in report.problems[0].why
    assert report.rows <= 1


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    """A directory, a link, a FIFO (which would hang a reader) and nothing at all."""
    (tmp_path / "good.jsonl").write_text(GOOD)
    (tmp_path / "directory.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to("good.jsonl")
    os.mkfifo(tmp_path / "fifo.jsonl")
    causes = {name: validate(tmp_path / f"{name}.jsonl").cause for name in ("directory", "link", "fifo", "missing")}
    assert causes == {
        "directory": "directory.jsonl: is a directory; only a regular file can be trained",
        "link": "link.jsonl: is a symbolic link; only a regular file can be trained",
        "fifo": "fifo.jsonl: is a FIFO; only a regular file can be trained",
        "missing": "missing.jsonl: cannot be read (No such file or directory)",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_nobody_may_read_is_refused(path: Path) -> None:
    """The permission is the cause."""
    path.write_text(GOOD)
    path.chmod(0)
    assert validate(path).cause == "data.jsonl: cannot be read (Permission denied)"


def test_a_file_over_the_limit_is_refused_unread(path: Path) -> None:
    """Both figures are named."""
    path.write_text(GOOD * 2)
    report = validate(path, size_limit_bytes=100)
    assert report.cause == f"data.jsonl: has {2 * len(GOOD)} bytes; the limit is 100. Split it into several files"


def test_the_deeper_levels_say_what_to_use_instead(path: Path) -> None:
    """They are not pretended."""
    path.write_text(GOOD)
    deeper: list[Level] = ["standard", "deep"]
    for level in deeper:
        with pytest.raises(NotSupported, match="quick"):
            validate(path, level)
    with pytest.raises(UsageError, match="known are quick, standard, deep"):
        validate(path, "thorough")  # type: ignore[arg-type]
