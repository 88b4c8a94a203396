"""A bad file is refused with its name, the line and the cause."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from thirdshift.apps.training.config import Level
from thirdshift.apps.training.data.duplicate_rows import DuplicateRows
from thirdshift.apps.training.data.lengths import Lengths
from thirdshift.apps.training.data.rows import parse_row
from thirdshift.apps.training.inbox.validation import FileChanged, validate
from thirdshift.apps.training.inbox.validation_report import ValidationReport
from thirdshift.apps.training.models import byte_tokenizer
from thirdshift.apps.training.models.measure import FastTokenizer, Measure, measure_in
from thirdshift.core.errors import UsageError


def asked(question: str, answer: str) -> str:
    return json.dumps({"prompt": question, "completion": answer})


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content | tojson }}{{ eos_token }}"
    "{% if loop.last %}{% break %}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
GOOD = '{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


@pytest.fixture
def measure() -> Measure:
    """Every byte is a token; three marks of a conversation come to that. The model looks at 32."""
    marks = {"eos_token": byte_tokenizer.END}
    tokenizer = FastTokenizer(byte_tokenizer.make(), marks, byte_tokenizer.CHAT_TEMPLATE)
    return Measure(tokenizer=tokenizer, context=32)


def test_a_good_file_is_sound(path: Path) -> None:
    """Every line is counted; blank ones do not matter."""
    path.write_text(GOOD * 3 + "\n" + '{"prompt": "a", "completion": "b"}\n{"text": "c"}')
    report = validate(path)
    content_hash = blake3(path.read_bytes()).hexdigest()
    size_bytes = path.stat().st_size
    assert report == ValidationReport(
        file="data.jsonl", level="quick", rows=5, size_bytes=size_bytes, content_hash=content_hash
    )
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
    """The report stays readable, and all are counted."""
    path.write_text("bad\n" * 500)
    report = validate(path)
    assert report.problem_count == 500
    assert [problem.line for problem in report.problems] == list(range(1, 21))


def test_the_report_is_plain_data(path: Path) -> None:
    """It lies beside the failed file as JSON."""
    path.write_text("true\n")
    assert validate(path).to_dict() == {
        "file": "data.jsonl",
        "level": "quick",
        "is_sound": False,
        "cause": "data.jsonl:1: holds true or false; a row is a JSON object",
        "rows": 0,
        "size_bytes": 5,
        "content_hash": blake3(b"true\n").hexdigest(),
        "problems": [{"line": 1, "why": "holds true or false; a row is a JSON object"}],
        "problem_count": 1,
        "lengths": None,
        "duplicates": None,
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
        ("é".encode("utf-16"), None, "is UTF-16 text"),
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


def test_only_known_levels_are_looked_at(path: Path) -> None:
    """And the deeper ones need to know the model."""
    path.write_text(GOOD)
    with pytest.raises(UsageError, match="known are quick, standard, deep"):
        validate(path, "thorough")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs the measure of a model"):
        validate(path, "deep")


def test_lengths_are_told_in_tokens_of_the_model(path: Path, measure: Measure) -> None:
    """A row longer than the context is counted: it loses the beginning of its question. Percentiles and a histogram."""
    path.write_text(f"{asked('2+2?', '4')}\n" * 18 + f"{asked('a' * 60, '4')}\n{asked('b', 'c' * 22)}\n")
    levels: list[Level] = ["standard", "deep"]
    for level in levels:
        report = validate(path, level, measure=measure, scratch=path.parent)
        assert report.is_sound
        assert report.lengths == Lengths(
            rows=20,
            context=32,
            cut_rows=1,
            tokens=18 * 9 + 65 + 27,
            trained_tokens=18 * 2 + 2 + 23,
            shortest=9,
            median=9,
            p95=27,
            longest=65,
            histogram=((16, 18), (32, 1), (128, 1)),
        )


def test_an_answer_that_alone_is_too_long_is_a_bad_line(path: Path, measure: Measure) -> None:
    """There is nothing that could be cut without making it another answer; reading goes on."""
    path.write_text(f"{asked('a', 'b')}\n{asked('a', 'b' * 40)}\n{asked('a', 'b' * 3_000_000)}\n")
    report = validate(path, "standard", measure=measure)
    assert (report.rows, report.problem_count) == (1, 2)
    assert report.cause == "data.jsonl:2: the answer alone has 41 tokens; the model's context has room for 31"
    assert report.problems[1].why.startswith("the answer alone has more than 31 tokens")


def test_of_many_rows_a_sample_is_measured(path: Path, measure: Measure) -> None:
    """A thousand, the same each time; DEEP measures all."""
    path.write_text("".join(f"{asked('x' * (number % 20), 'y')}\n" for number in range(1, 2001) if number % 20))
    one, other = (validate(path, "standard", measure=measure) for _ in range(2))
    assert one == other
    assert one.rows == 1900
    assert one.lengths is not None
    assert one.lengths.rows == 1000
    deep = validate(path, "deep", measure=measure)
    assert deep.lengths is not None
    assert deep.lengths.rows == 1900


def test_deep_finds_rows_that_come_again(path: Path, measure: Measure) -> None:
    """However they are written; they are told, not refused. Nothing is left of the search."""
    again = '{"level": 3, "completion": "4",   "prompt": "2+2?"}'
    path.write_text(f"{asked('2+2?', '4')}\n{asked('1+1?', '2')}\n{again}\n{asked('1+1?', '2')}\n")
    report = validate(path, "deep", measure=measure, scratch=path.parent)
    assert report.is_sound
    assert report.duplicates == DuplicateRows(rows=2, examples=((3, 1), (4, 2)))
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_changes_while_it_is_read_is_no_result(path: Path, measure: Measure) -> None:
    """What was found of it would be true of no file."""
    path.write_text(f"{asked('2+2?', '4')}\n" * 40_000)

    def write_on(_done_bytes: int) -> None:
        with path.open("a") as file:
            file.write(f"{asked('3+3?', '6')}\n")

    with pytest.raises(FileChanged):
        validate(path, "quick", look=write_on)


def test_the_light_tokenizer_reads_what_training_reads(model_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Token by token, with and without a chat template, and a beginning of every text."""
    from transformers import AutoTokenizer

    from thirdshift.apps.training.data.encoding import encode_row

    directory = tmp_path / "model"
    shutil.copytree(model_of("gpt2"), directory)
    rows = [parse_row(asked("wie heißt «das»?", "so\n")), parse_row('{"text": "plain <|end|> text"}')]
    for template in (None, TEMPLATE):
        tokenizer = AutoTokenizer.from_pretrained(directory)
        tokenizer.chat_template = template
        tokenizer.bos_token = "<|system|>"
        tokenizer.save_pretrained(directory)
        measure = measure_in(directory, 512)
        assert isinstance(measure.tokenizer, FastTokenizer)
        assert measure.context == 256
        trained = AutoTokenizer.from_pretrained(directory)
        assert [measure.encode(row) for row in rows] == [encode_row(row, trained, 256) for row in rows]


def test_what_a_chat_template_refuses_is_a_bad_line(path: Path) -> None:
    """The template's own words are the cause."""
    template = "{{ raise_exception('roles must alternate') }}"
    tokenizer = FastTokenizer(byte_tokenizer.make(), {}, template)
    path.write_text(GOOD)
    report = validate(path, "standard", measure=Measure(tokenizer=tokenizer, context=32))
    assert report.cause == "data.jsonl:1: the model's chat template refuses the conversation: roles must alternate"
