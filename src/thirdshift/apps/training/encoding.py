"""From a row to tokens: which the model reads, and which of them it is trained to say.

A conversation is rendered by the tokenizer's own chat template, piece by piece, so that the question has exactly the
tokens it has when the model is asked it later. The loss is on the assistant's pieces, the end-of-turn token included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thirdshift.apps.training.rows import BadRow, Message, Row


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedRow:
    """Tokens of one row; ``trained[i]`` is true where token ``i`` is to be predicted. ``cut`` counts lost tokens."""

    ids: list[int]
    trained: list[bool]
    cut: int = 0


def encode_row(row: Row, tokenizer: Any, context: int) -> EncodedRow:
    """Return the tokens of *row*, at most *context* of them.

    A longer conversation loses the beginning of its question. Raises :class:`BadRow` when the answer (or a plain
    text) alone leaves no room.
    """
    pieces = _pieces_of_text(row.text, tokenizer) if row.text else _pieces_of_conversation(row.messages, tokenizer)
    encoded = [(_tokens(text, tokenizer), is_trained) for text, is_trained in pieces]
    ids = [token for tokens, _ in encoded for token in tokens]
    trained = [is_trained for tokens, is_trained in encoded for _ in tokens]
    longest = context if row.text else context - 1  # an answer is predicted from at least one token of its question
    if len(encoded[-1][0]) > longest:
        what = "the text" if row.text else "the answer alone"
        raise BadRow(f"{what} has {len(encoded[-1][0]):,} tokens; the model's context has room for {longest:,}")
    cut = max(0, len(ids) - context)
    ids, trained = ids[cut:], trained[cut:]
    trained[0] = False  # nothing stands before the first token to predict it from
    return EncodedRow(ids=ids, trained=trained, cut=cut)


def encode_question(question: Sequence[Message], tokenizer: Any, context: int) -> list[int]:
    """Return the tokens after which the model is to answer *question*, the beginning cut to fit into *context*."""
    return _tokens(_render(question, tokenizer, is_asked=True), tokenizer)[-context:]


def padding_id(tokenizer: Any) -> int:
    """Return the token that fills a batch up; a tokenizer without one lends its end token, which is masked anyway."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def _pieces_of_text(text: str, tokenizer: Any) -> list[tuple[str, bool]]:
    return [(text + (tokenizer.eos_token or ""), True)]


def _pieces_of_conversation(messages: Sequence[Message], tokenizer: Any) -> list[tuple[str, bool]]:
    """Split the rendered conversation into (text, is it the assistant's), ending with the last answer."""
    pieces: list[tuple[str, bool]] = []
    done = ""
    for turn, message in enumerate(messages):
        if message.role != "assistant":
            continue
        question = _render(messages[:turn], tokenizer, is_asked=True)
        answered = _render(messages[: turn + 1], tokenizer, is_asked=False)
        if not (question.startswith(done) and answered.startswith(question)):
            raise BadRow(f"the chat template rewrites earlier turns (message {turn + 1}); answers cannot be told apart")
        pieces += [(question[len(done) :], False), (answered[len(question) :], True)]
        done = answered
    return pieces


def _render(messages: Sequence[Message], tokenizer: Any, *, is_asked: bool) -> str:
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=is_asked)
    return str(rendered)


def _tokens(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))
