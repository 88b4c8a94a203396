"""From a row to tokens: which the model reads, and which of them it is trained to say.

A conversation is rendered by the tokenizer's own chat template, piece by piece, so that the question has exactly the
tokens it has when the model is asked it later. The loss is on the assistant's pieces, the end-of-turn token included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from thirdshift.apps.training.data.rows import BadRow, Message, Row

_PIECE = 256 * 1024
"""Letters that are given to a tokenizer at once."""
_SEAM = 16
"""Tokens that a text may have more of, at most, when it is cut at some letter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedRow:
    """Tokens of one row; ``trained[i]`` is true where token ``i`` is to be predicted. ``cut`` counts lost tokens."""

    ids: list[int]
    trained: list[bool]
    cut: int = 0


def encode_row(row: Row, tokenizer: Any, context: int) -> EncodedRow:
    """Return the tokens of *row*, at most *context* of them.

    A longer conversation loses the beginning of its question; ``cut`` is an estimate where that is very long. Raises
    :class:`BadRow` when the answer (or a plain text) alone leaves no room.
    """
    if row.text:
        pieces = [(row.text + (tokenizer.eos_token or ""), True)]
    elif has_template(tokenizer):
        pieces = _pieces_of_conversation(row.messages, tokenizer)
    else:
        pieces = [(_plain_question(row.question), False), (row.answer + (tokenizer.eos_token or ""), True)]
    has_beginning = not has_template(tokenizer) or bool(row.text)
    longest = context if row.text else context - 1  # an answer is predicted from at least one token of its question
    *before, (said, _) = pieces
    kept = [(_tokens_within(said, tokenizer, longest, "the text" if row.text else "the answer alone"), True)]
    room, cut = context - len(kept[0][0]), 0
    for text, is_trained in reversed(before):
        tokens, lost = _end_of(text, tokenizer, room)
        kept.append((tokens, is_trained))
        room, cut = room - len(tokens), cut + lost
    if has_beginning:
        beginning = _beginning(tokenizer)
        kept.append((beginning[:room], False))
        cut += max(0, len(beginning) - room)
    ids = [token for tokens, _ in reversed(kept) for token in tokens]
    trained = [is_trained for tokens, is_trained in reversed(kept) for _ in tokens]
    trained[0] = False  # nothing stands before the first token to predict it from
    return EncodedRow(ids=ids, trained=trained, cut=cut)


def encode_question(question: Sequence[Message], tokenizer: Any, context: int) -> list[int]:
    """Return the tokens after which the model is to answer *question*, the beginning cut to fit into *context*."""
    if has_template(tokenizer):
        return _end_of(_render(question, tokenizer, is_asked=True), tokenizer, context)[0]
    return [*_beginning(tokenizer), *_end_of(_plain_question(question), tokenizer, context)[0]][-context:]


def has_template(tokenizer: Any) -> bool:
    """Say whether *tokenizer* knows how a conversation is written."""
    return bool(getattr(tokenizer, "chat_template", None))


def padding_id(tokenizer: Any) -> int:
    """Return the token that fills a batch up; a tokenizer without one lends its end token, which is masked anyway."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def _plain_question(question: Sequence[Message]) -> str:
    """Return the one question of an instruction as it stands, its answer to follow on a new line.

    So a base model without a chat template learns instructions; how it would write several turns, nobody can say.
    """
    if len(question) != 1:
        raise BadRow("a conversation of several turns needs a chat template, and the model's tokenizer has none")
    text = question[0].content
    return text if text[-1].isspace() else f"{text}\n"


def _beginning(tokenizer: Any) -> list[int]:
    """Return the token that begins every text, for a tokenizer that has one; a chat template writes it itself."""
    tokens = list(tokenizer.encode("", add_special_tokens=True))
    return tokens[:1] if tokens[:1] == [tokenizer.bos_token_id] else []


def _pieces_of_conversation(messages: Sequence[Message], tokenizer: Any) -> list[tuple[str, bool]]:
    """Split the rendered conversation into (text, is it the assistant's), ending with the last answer.

    Where the template rewrites earlier turns (some drop the thoughts of all but the last answer), only the last answer
    is trained: what stood in the earlier ones when they were given is not what the model reads now.
    """
    pieces: list[tuple[str, bool]] = []
    done = ""
    for turn, message in enumerate(messages):
        if message.role != "assistant":
            continue
        question = _render(messages[:turn], tokenizer, is_asked=True)
        answered = _render(messages[: turn + 1], tokenizer, is_asked=False)
        if not (question.startswith(done) and answered.startswith(question)):
            return _last_answer_only(messages, tokenizer)
        pieces += [(question[len(done) :], False), (answered[len(question) :], True)]
        done = answered
    return pieces


def _last_answer_only(messages: Sequence[Message], tokenizer: Any) -> list[tuple[str, bool]]:
    question = _render(messages[:-1], tokenizer, is_asked=True)
    answered = _render(messages, tokenizer, is_asked=False)
    if not answered.startswith(question):
        raise BadRow(
            "the chat template writes a question otherwise once it is answered; the answer cannot be told apart"
        )
    return [(question, False), (answered[len(question) :], True)]


def _render(messages: Sequence[Message], tokenizer: Any, *, is_asked: bool) -> str:
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=is_asked))
    except TemplateError as error:
        raise BadRow(f"the model's chat template refuses the conversation: {error}") from error


def _tokens(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _tokens_within(text: str, tokenizer: Any, limit: int, what: str) -> list[int]:
    """Return the tokens of *text*; raises :class:`BadRow` saying what *what* has when there are more than *limit*.

    A tokenizer takes hundreds of bytes for every letter: a long text is counted piece by piece first.
    """
    count = 0
    for start in range(0, len(text) if len(text) > _PIECE else 0, _PIECE):
        count += len(_tokens(text[start : start + _PIECE], tokenizer)) - _SEAM
        if count > limit:
            raise BadRow(f"{what} has more than {limit:,} tokens, and the model's context has no room for more")
    tokens = _tokens(text, tokenizer)
    if len(tokens) > limit:
        raise BadRow(f"{what} has {len(tokens):,} tokens; the model's context has room for {limit:,}")
    return tokens


def _end_of(text: str, tokenizer: Any, room: int) -> tuple[list[int], int]:
    """Return the last *room* tokens of *text* and how many are lost; of a very long text only the end is looked at."""
    size = min(len(text), _PIECE)
    tokens = _tokens(text[-size:], tokenizer)
    while size < len(text) and len(tokens) < room + _SEAM:
        size = min(2 * size, len(text))
        tokens = _tokens(text[-size:], tokenizer)
    lost = max(0, len(tokens) - room)
    unseen = (len(text) - size) * len(tokens) // size if size else 0
    return tokens[lost:], lost + unseen
