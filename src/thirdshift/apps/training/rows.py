"""What a line of training data may look like, and what is wrong with it when it does not.

Three forms are understood: a chat (``{"messages": [{"role", "content"}, ...]}``, the last message the assistant's),
an instruction (``{"prompt", "completion"}`` or ``{"instruction", "output"[, "input"]}``), and plain text
(``{"text"}``). Only the standard library is needed here, so a file can be checked by a process that never loads torch.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thirdshift.core.errors import ThirdshiftError

ROLES = ("system", "user", "assistant")
LINE_LIMIT_BYTES = 16 * 1024 * 1024
PROBLEM_LIMIT = 20


class BadRow(ThirdshiftError):
    """A line is no row of training data; ``why`` says what is wrong with it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class BadLine(ThirdshiftError):
    """A line of a file is no row of training data; names file, line and cause."""

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path.name}:{line}: {why}")
        self.path = path
        self.line = line
        self.why = why


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One example: a conversation that ends with an answer, or plain ``text`` (then ``messages`` is empty).

    ``level`` is an optional label of the row ("how hard"); it takes no part in training.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    level: str = ""

    @property
    def question(self) -> tuple[Message, ...]:
        """Everything before the answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """What the assistant is to say at the end; empty for plain text."""
        return self.messages[-1].content if self.messages else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One bad line of a file, counted from 1."""

    line: int
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickReport:
    """What reading a file to its end found: sound rows, the first problems, and whether there were more of them."""

    rows: int
    problems: tuple[Problem, ...]
    truncated: bool

    @property
    def is_sound(self) -> bool:
        """True when every line is a row."""
        return not self.problems


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield line number (from 1) and row; blank lines are passed over. Raises :class:`BadLine` at the first bad one."""
    for line, outcome in _outcomes(path):
        if isinstance(outcome, BadRow):
            raise BadLine(path, line, outcome.why)
        yield line, outcome


def validate_quick(path: Path) -> QuickReport:
    """Read *path* to its end, going on after a bad line; the first 20 problems are listed."""
    rows = 0
    problems: list[Problem] = []
    for line, outcome in _outcomes(path):
        if isinstance(outcome, Row):
            rows += 1
        else:
            problems.append(Problem(line=line, why=outcome.why))
            if len(problems) > PROBLEM_LIMIT:
                break
    return QuickReport(rows=rows, problems=tuple(problems[:PROBLEM_LIMIT]), truncated=len(problems) > PROBLEM_LIMIT)


def parse_row(line: bytes | str) -> Row:
    """Return the row that *line* holds; raises :class:`BadRow` saying what is wrong."""
    document = _decode(line)
    level = document.get("level", "")
    if not isinstance(level, str | int):
        raise BadRow(f'"level" is {_kind(level)}; it must be a string or a whole number')
    if "messages" in document:
        return Row(messages=_conversation(document["messages"]), level=str(level))
    if "prompt" in document:
        return _answered(_text(document, "prompt"), _text(document, "completion"), str(level))
    if "instruction" in document:
        return _answered(_instruction(document), _text(document, "output"), str(level))
    if "text" in document:
        return Row(text=_text(document, "text"), level=str(level))
    found = ", ".join(sorted(map(repr, document))) or "no key at all"
    raise BadRow(f'needs "messages", "prompt", "instruction" or "text"; found {found}')


def _outcomes(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    line, rows_or_problems = 0, 0
    for line, content in enumerate(_lines(path), start=1):
        if not content.strip():
            continue
        rows_or_problems += 1
        try:
            yield line, parse_row(content)
        except BadRow as problem:
            yield line, problem
    if not rows_or_problems:
        yield 1, BadRow("the file holds only blank lines" if line else "the file is empty")


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of *path*; of a line beyond the limit only the beginning, one byte too long to be accepted."""
    with path.open("rb") as file:
        while line := file.readline(LINE_LIMIT_BYTES + 1):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(LINE_LIMIT_BYTES)
            yield line


def _decode(line: bytes | str) -> dict[str, Any]:
    text = line if isinstance(line, str) else _utf8(line)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON that can be read: {error}") from error
    if not isinstance(document, dict):
        raise BadRow(f"holds {_kind(document)}; a row is a JSON object")
    return document


def _utf8(line: bytes) -> str:
    if b"\0" in line:
        raise BadRow(f"holds a NUL byte (column {line.index(0) + 1}); this is binary data, not JSON Lines")
    if len(line) > LINE_LIMIT_BYTES:
        raise BadRow(f"is longer than {LINE_LIMIT_BYTES:,} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8: byte 0x{line[error.start]:02x} (column {error.start + 1})") from error


def _conversation(messages: object) -> tuple[Message, ...]:
    if not isinstance(messages, list):
        raise BadRow(f'"messages" is {_kind(messages)}; it must be a list')
    turns = tuple(_message(message, number) for number, message in enumerate(messages, start=1))
    if not turns or turns[-1].role != "assistant":
        raise BadRow("the last message must be the assistant's answer")
    if all(turn.role != "user" for turn in turns):
        raise BadRow("no message is the user's; an answer needs a question")
    return turns


def _message(message: object, number: int) -> Message:
    where = f"message {number}"
    if not isinstance(message, dict):
        raise BadRow(f"{where} is {_kind(message)}; it must be an object with role and content")
    role = _text(message, "role", where)
    if role not in ROLES:
        raise BadRow(f"{where} has the unknown role {role!r}; known are {', '.join(ROLES)}")
    return Message(role=role, content=_text(message, "content", where))


def _instruction(document: Mapping[str, Any]) -> str:
    instruction = _text(document, "instruction")
    return f"{instruction}\n\n{_text(document, 'input')}" if document.get("input") else instruction


def _answered(question: str, answer: str, level: str) -> Row:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Row(messages=turns, level=level)


def _text(document: Mapping[str, Any], key: str, where: str = "the row") -> str:
    if key not in document:
        raise BadRow(f'{where} has no "{key}"')
    value = document[key]
    if not isinstance(value, str):
        raise BadRow(f'"{key}" of {where} is {_kind(value)}; it must be a string')
    if not value.strip():
        raise BadRow(f'"{key}" of {where} is empty')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f'"{key}" of {where} holds half of a surrogate pair (\\u{ord(value[error.start]):04x})') from error
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
