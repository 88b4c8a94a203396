"""What a line of training data may look like, and what is wrong with it when it does not.

Three forms are understood: a chat (``{"messages": [{"role", "content"}, ...]}``, the last message the assistant's),
an instruction (``{"prompt", "completion"}`` or ``{"instruction", "output"[, "input"]}``), and plain text
(``{"text"}``). Only the standard library is needed here, so a file can be checked by a process that never loads torch.
"""

import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from thirdshift.core.errors import ThirdshiftError

ROLES = ("system", "user", "assistant")
LINE_LIMIT_BYTES = 16 * 1024 * 1024
MESSAGE_LIMIT = 1000
"""Messages of one conversation: what it costs to tell them apart grows with their square."""
_WHY_LIMIT = 300


class BadRow(ThirdshiftError):
    """A line is no row of training data; ``why`` says what is wrong with it."""

    def __init__(self, why: str) -> None:
        self.why = why if len(why) <= _WHY_LIMIT else f"{why[:_WHY_LIMIT]} ..."
        super().__init__(self.why)


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
class Line:
    """One line of a file that is not blank: its number (from 1), where it lies, and what it holds."""

    number: int
    offset: int
    size_bytes: int
    outcome: Row | BadRow


def read_rows(path: Path, update: Callable[[bytes], object] = lambda _bytes: None) -> Iterator[tuple[int, Row]]:
    """Yield line number (from 1) and row; blank lines are passed over. Raises :class:`BadLine` at the first bad one.

    *update* is given every byte of the file, in order.
    """
    with path.open("rb") as file:
        for line in read_lines(file, update):
            if isinstance(line.outcome, BadRow):
                raise BadLine(path, line.number, line.outcome.why)
            yield line.number, line.outcome


def read_lines(file: BinaryIO, update: Callable[[bytes], object] = lambda _bytes: None) -> Iterator[Line]:
    """Read *file* to its end, also past bad lines; *update* is given every byte of it, in order."""
    number = offset = 0
    is_blank = True
    for number, (content, size_bytes) in enumerate(_lines(file, update), start=1):
        if content.strip():
            is_blank = False
            yield Line(number=number, offset=offset, size_bytes=size_bytes, outcome=_outcome(content))
        offset += size_bytes
    if is_blank:
        why = "the file holds only blank lines" if number else "the file is empty"
        yield Line(number=1, offset=0, size_bytes=0, outcome=BadRow(why))


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
    found = ", ".join(sorted(map(repr, islice(document, 20)))) or "no key at all"
    raise BadRow(f'needs "messages", "prompt", "instruction" or "text"; found {found}')


def _outcome(content: bytes) -> Row | BadRow:
    try:
        return parse_row(content)
    except BadRow as problem:
        return problem


def _lines(file: BinaryIO, update: Callable[[bytes], object]) -> Iterator[tuple[bytes, int]]:
    """Yield the lines of *file* and their sizes; of one beyond the limit only the beginning, one byte too long."""
    while line := file.readline(LINE_LIMIT_BYTES + 1):
        update(line)
        size_bytes, rest = len(line), line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(LINE_LIMIT_BYTES)
            update(rest)
            size_bytes += len(rest)
        yield line, size_bytes


def _decode(line: bytes | str) -> dict[str, Any]:
    text = line if isinstance(line, str) else _utf8(line)
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON that can be read: {error}") from error
    if not isinstance(document, dict):
        raise BadRow(f"holds {_kind(document)}; a row is a JSON object")
    return document


def _refuse_constant(name: str) -> None:
    raise BadRow(f"not JSON: it knows no {name}")


def _utf8(line: bytes) -> str:
    if b"\0" in line:
        raise BadRow(f"holds a NUL byte (column {line.index(0) + 1}); this is binary data, not JSON Lines")
    if len(line) > LINE_LIMIT_BYTES:
        raise BadRow(f"is longer than {LINE_LIMIT_BYTES:,} bytes")
    if line.startswith(codecs.BOM_UTF8):
        raise BadRow("begins with a byte order mark; save the file as UTF-8 without one")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8: byte 0x{line[error.start]:02x} (column {error.start + 1})") from error


def _conversation(messages: object) -> tuple[Message, ...]:
    if not isinstance(messages, list):
        raise BadRow(f'"messages" is {_kind(messages)}; it must be a list')
    if len(messages) > MESSAGE_LIMIT:
        raise BadRow(f"has {len(messages):,} messages; the limit is {MESSAGE_LIMIT:,}. Split the conversation")
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
