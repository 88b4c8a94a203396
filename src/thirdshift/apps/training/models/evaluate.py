"""The examination: questions that were never trained, answered greedily, and right only when letter for letter so."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from thirdshift.apps.training.data.batches import pad_rows
from thirdshift.apps.training.data.encoding import EncodedRow, encode_question, encode_row, padding_id
from thirdshift.apps.training.data.rows import Row, read_rows
from thirdshift.apps.training.job import Evaluation
from thirdshift.apps.training.models.loss import logits_of, summed_loss, takes
from thirdshift.apps.training.models.model import context_of_config


def examples_from_jsonl(path: Path, limit: int | None = None) -> list[Row]:
    """Return the first *limit* rows of *path* that ask something; their "level" keys are kept."""
    return list(islice((row for _, row in read_rows(path) if row.messages), limit))


@torch.no_grad()
def exact_match(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Row],
    *,
    batch_size: int = 64,
    longest_answer: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] = lambda _asked, _of: None,
) -> Evaluation | None:
    """Ask *examples* and compare each answer, stripped, with the expected one; None when *should_stop* became true.

    Answers of more than *longest_answer* tokens are not asked for; they count in the loss alone.
    *on_progress* is told (asked, of) after each batch. Raises ``BadRow`` when an answer does not fit the context.
    """
    context = context_of_config(model.config)
    encoded = [(row, encode_row(row, tokenizer, context)) for row in examples]
    encoded.sort(key=lambda pair: len(pair[1].ids))
    marks: list[tuple[str, bool]] = []
    loss = 0.0
    with _examined(model):
        for start in range(0, len(encoded), batch_size):
            part = encoded[start : start + batch_size]
            asked = [pair for pair in part if longest_answer is None or _answer_length(pair[1]) <= longest_answer]
            answers = _answers(model, tokenizer, asked, should_stop) if asked else []
            if answers is None or should_stop():
                return None
            marks += [(row.level, said == row.answer.strip()) for (row, _), said in zip(asked, answers, strict=True)]
            batch = pad_rows([(row.ids, row.trained) for _, row in part], padding_id(tokenizer))
            loss += float(summed_loss(model, batch))
            on_progress(start + len(part), len(encoded))
    tokens = sum(sum(row.trained) for _, row in encoded)
    right = sum(is_right for _, is_right in marks)
    return Evaluation(asked=len(marks), right=right, loss=loss / max(tokens, 1), by_level=_by_level(marks))


@contextlib.contextmanager
def _examined(model: Any) -> Iterator[None]:
    """Switch dropout and the like off, and afterwards back to what they were."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _answers(
    model: Any, tokenizer: Any, part: Sequence[tuple[Row, EncodedRow]], should_stop: Callable[[], bool]
) -> list[str] | None:
    """Return what the model says to each question, in at most as many tokens as the longest right answer has."""
    context = context_of_config(model.config)
    longest = max(_answer_length(row) for _, row in part)
    questions = [encode_question(row.question, tokenizer, context - longest) for row, _ in part]
    said: list[torch.Tensor] = []
    is_done = torch.zeros(len(part), dtype=torch.bool)
    for token in islice(greedy(model, questions, padding_id(tokenizer)), longest):
        if should_stop():
            return None
        said.append(token)
        is_done |= token == tokenizer.eos_token_id
        if bool(is_done.all()):
            break
    return [_text(tokens, tokenizer) for tokens in torch.stack(said, dim=1).tolist()]


def greedy(model: Any, questions: Sequence[list[int]], pad_id: int) -> Iterator[torch.Tensor]:
    """Yield the most probable next token of each question, of shape ``(batch,)``, for ever."""
    greedy = _greedy_with_cache if takes(model, "past_key_values") else _greedy_again
    return greedy(model, questions, pad_id)


def _greedy_again(model: Any, questions: Sequence[list[int]], pad_id: int) -> Iterator[torch.Tensor]:
    """Read everything again for each token, padded on the right: recurrent models have no cache of keys and values."""
    texts = [list(question) for question in questions]
    while True:
        batch = pad_rows([(text, [False] * len(text)) for text in texts], pad_id)
        logits = logits_of(model, batch)
        token = torch.stack([logits[line, len(text) - 1].argmax() for line, text in enumerate(texts)]).cpu()
        yield token
        for text, said in zip(texts, token.tolist(), strict=True):
            text.append(said)


def _greedy_with_cache(model: Any, questions: Sequence[list[int]], pad_id: int) -> Iterator[torch.Tensor]:
    """Read one token at a time, the questions padded on the left."""
    time = max(map(len, questions))
    padding = [time - len(question) for question in questions]
    ids = torch.tensor([[pad_id] * lack + question for lack, question in zip(padding, questions, strict=True)])
    mask = torch.tensor([[0] * lack + [1] * (time - lack) for lack in padding])
    ids, mask = ids.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = None
    while True:
        wanted = {"position_ids": positions, "logits_to_keep": 1}
        known = {name: value for name, value in wanted.items() if takes(model, name)}
        output = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **known)
        token = output.logits[:, -1].argmax(dim=-1)
        yield token.cpu()
        cache, ids, positions = output.past_key_values, token[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)


def _text(tokens: list[int], tokenizer: Any) -> str:
    """Return the answer up to its end token; one that does not end is not an answer."""
    if tokenizer.eos_token_id not in tokens:
        return ""
    spoken = tokens[: tokens.index(tokenizer.eos_token_id)]
    return str(tokenizer.decode(spoken, skip_special_tokens=True)).strip()


def _answer_length(row: EncodedRow) -> int:
    """Count the tokens of the last answer: the trained ones at the end."""
    return next((place for place, trained in enumerate(reversed(row.trained)) if not trained), len(row.trained))


def _by_level(marks: Iterable[tuple[str, bool]]) -> dict[str, tuple[int, int]]:
    levels: dict[str, tuple[int, int]] = {}
    for level, is_right in sorted(marks):
        right, asked = levels.get(level, (0, 0))
        levels[level] = (right + is_right, asked + 1)
    levels.pop("", None)
    return levels
