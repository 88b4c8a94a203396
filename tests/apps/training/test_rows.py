"""The forms a line of training data may have, and what is said about a line that has none of them."""

import json
from pathlib import Path

import pytest

from thirdshift.apps.training.data.rows import (
    LINE_LIMIT_BYTES,
    BadLine,
    BadRow,
    Message,
    Row,
    parse_row,
    read_lines,
    read_rows,
)

ASKED = {"role": "user", "content": "how many?"}
SAID = {"role": "assistant", "content": "two"}


def line(**document: object) -> str:
    return json.dumps(document)


class TestParseRow:
    def test_a_chat_keeps_its_turns_in_order(self) -> None:
        """A chat row is its messages; the last is the answer."""
        row = parse_row(line(messages=[{"role": "system", "content": "be brief"}, ASKED, SAID]))
        assert [message.role for message in row.messages] == ["system", "user", "assistant"]
        assert row.answer == "two"

    @pytest.mark.parametrize(
        "document",
        [{"prompt": "how many?", "completion": "two"}, {"instruction": "how many?", "output": "two", "input": ""}],
    )
    def test_an_instruction_is_a_chat_of_two_turns(self, document: dict[str, str]) -> None:
        """Both instruction forms read as a question and its answer."""
        assert parse_row(line(**document)) == parse_row(line(messages=[ASKED, SAID]))

    def test_the_input_of_an_instruction_follows_it(self) -> None:
        """The input stands below the instruction."""
        row = parse_row(line(instruction="Count.", input="a b", output="two"))
        assert row.question == (Message(role="user", content="Count.\n\na b"),)

    def test_text_is_kept_as_it_is(self) -> None:
        """Plain text has no question and no answer."""
        assert parse_row(line(text=" as it is ")) == Row(text=" as it is ")

    def test_a_level_is_kept_as_a_word(self) -> None:
        """A number as level becomes a word, so that levels of all files compare."""
        assert parse_row(line(text="x", level=3)).level == "3"

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            ('{"text": "a"', "not JSON: Expecting ',' delimiter (column 13)"),
            ("[" * 100_000, "not JSON that can be read"),
            ("[1]", "holds a list; a row is a JSON object"),
            ("null", "holds null"),
            ("{}", 'needs "messages", "prompt", "instruction" or "text"; found no key at all'),
            (line(question="a"), "found 'question'"),
            (line(prompt="a"), 'the row has no "completion"'),
            (line(prompt="a", completion=7), '"completion" of the row is a number; it must be a string'),
            (line(instruction="a", output=" "), '"output" of the row is empty'),
            (line(text=None), '"text" of the row is null'),
            (line(text="x", level=[1]), '"level" is a list'),
            (line(messages="hello"), '"messages" is a string; it must be a list'),
            (line(messages=[]), "the last message must be the assistant's answer"),
            (line(messages=[ASKED]), "the last message must be the assistant's answer"),
            (line(messages=[SAID]), "no message is the user's"),
            (line(messages=[ASKED, "two"]), "message 2 is a string"),
            (line(messages=[{"content": "a"}, SAID]), 'message 1 has no "role"'),
            (line(messages=[{**ASKED, "role": "tool"}, SAID]), "message 1 has the unknown role 'tool'"),
            (line(messages=[ASKED, {**SAID, "content": ["a"]}]), '"content" of message 2 is a list'),
            (r'{"text": "\ud800"}', "half of a surrogate pair"),
            (b'{"text": "\xff"}', "not UTF-8: byte 0xff (column 11)"),
            (b'{"te\0xt": "a"}', "holds a NUL byte (column 5); this is binary data"),
        ],
    )
    def test_what_is_wrong_is_said(self, content: bytes | str, why: str) -> None:
        """Each kind of bad line is refused with its own cause."""
        with pytest.raises(BadRow) as refusal:
            parse_row(content)
        assert why in refusal.value.why


class TestReadRows:
    def test_rows_come_with_their_line_numbers(self, tmp_path: Path) -> None:
        """Blank lines count but are no rows; the last line needs no newline."""
        path = tmp_path / "train.jsonl"
        path.write_text(f"{line(text='a')}\n\n{line(text='b')}")
        assert [(number, row.text) for number, row in read_rows(path)] == [(1, "a"), (3, "b")]

    def test_a_bad_line_is_named(self, tmp_path: Path) -> None:
        """The error names file, line and cause."""
        path = tmp_path / "train.jsonl"
        path.write_text(f"{line(text='a')}\n\n[]\n")
        with pytest.raises(BadLine, match=r"^train\.jsonl:3: holds a list"):
            list(read_rows(path))

    @pytest.mark.parametrize(("content", "why"), [(b"", "the file is empty"), (b"\n \n", "only blank lines")])
    def test_a_file_without_rows_is_named(self, tmp_path: Path, content: bytes, why: str) -> None:
        """Nothing to train is an error, not an empty success."""
        path = tmp_path / "train.jsonl"
        path.write_bytes(content)
        with pytest.raises(BadLine, match=why):
            list(read_rows(path))

    def test_an_endless_line_is_refused_and_passed_over(self, tmp_path: Path) -> None:
        """A line beyond the limit is never held in memory whole, and the next line is read."""
        path = tmp_path / "train.jsonl"
        path.write_bytes(b"x" * (3 * LINE_LIMIT_BYTES) + b"\n" + line(text="a").encode())
        with path.open("rb") as file:
            first, second = read_lines(file)
        assert isinstance(first.outcome, BadRow)
        assert (first.number, first.outcome.why) == (1, "is longer than 16,777,216 bytes")
        assert (second.number, second.offset, second.outcome) == (2, first.size_bytes, Row(text="a"))
