"""Talking to the current model: the published one, which is whole at every moment, also while the daemon trains."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from thirdshift.apps.training.data.encoding import encode_question, has_template, padding_id
from thirdshift.apps.training.data.rows import Message
from thirdshift.apps.training.models.evaluate import greedy
from thirdshift.apps.training.models.model import context_of_config, load_model
from thirdshift.apps.training.models.precision import device_here
from thirdshift.apps.training.models.publish import WEIGHTS, published_checkpoint

_HALF_A_LETTER = "\N{REPLACEMENT CHARACTER}"


class Talk:
    """A conversation with the model in *directory*; when a newer one is published, the next answer is its.

    A model whose tokenizer has no chat template does not know of turns: each question then stands alone. Raises
    ``NotAModel`` when there is none.
    """

    def __init__(self, directory: Path, *, longest: int = 256) -> None:
        self._directory = directory
        self._longest = longest
        self._turns: list[Message] = []
        self._load()

    @property
    def checkpoint(self) -> str:
        """Name of the checkpoint that answers; empty for a model that was not trained yet."""
        return self._checkpoint

    def say(self, text: str) -> Iterator[str]:
        """Yield the answer to *text* in pieces, as they come."""
        if self._is_outdated():
            self._load()
        asked = Message(role="user", content=text)
        before = self._turns if has_template(self._tokenizer) else []
        answer = ""
        for piece in self._answer([*before, asked]):
            answer += piece
            yield piece
        self._turns += [asked, Message(role="assistant", content=answer)]

    def forget(self) -> None:
        """Begin a new conversation."""
        self._turns.clear()

    def _load(self) -> None:
        self._seen = _moment(self._directory)
        self._checkpoint = published_checkpoint(self._directory)
        model, self._tokenizer = load_model(self._directory)
        self._model: Any = model.to(device_here()).eval()

    def _is_outdated(self) -> bool:
        return _moment(self._directory) != self._seen

    @torch.no_grad()
    def _answer(self, question: Sequence[Message]) -> Iterator[str]:
        """Yield what the model says until its end token, only whole letters."""
        context = context_of_config(self._model.config)
        longest = min(self._longest, context // 2)
        ids = encode_question(question, self._tokenizer, context - longest)
        said: list[int] = []
        shown = ""
        for token, _ in zip(greedy(self._model, [ids], padding_id(self._tokenizer)), range(longest), strict=False):
            if token.item() == self._tokenizer.eos_token_id:
                return
            said.append(int(token.item()))
            text = str(self._tokenizer.decode(said, skip_special_tokens=True))
            if not text.endswith(_HALF_A_LETTER) and text.startswith(shown):
                yield text[len(shown) :]
                shown = text


def _moment(directory: Path) -> int:
    """Return when the weights were replaced last."""
    path = directory / WEIGHTS
    return path.stat().st_mtime_ns if path.is_file() else 0
