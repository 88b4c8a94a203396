"""The model's tokenizer and context without the model: for whoever only wants to know how long a row is.

The libraries that load models take seconds and hundreds of MB. A tokenizer that is one file (``tokenizer.json``), which
nearly all are, is read without them; any other is loaded as training loads it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from thirdshift.apps.training.config import DaemonConfig
from thirdshift.apps.training.data.encoding import EncodedRow, encode_row
from thirdshift.apps.training.data.rows import Row
from thirdshift.apps.training.models import byte_tokenizer
from thirdshift.apps.training.workspace import TrainingWorkspace

_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """How long a row is to a model: its tokenizer, and the tokens it looks at."""

    tokenizer: Any
    context: int

    def encode(self, row: Row) -> EncodedRow:
        """Return the tokens of *row* as training reads them; raises ``BadRow`` when they cannot fit."""
        return encode_row(row, self.tokenizer, self.context)


def measure_of(workspace: TrainingWorkspace, config: DaemonConfig) -> Measure:
    """Return the measure of the model that *workspace* trains next, also before there is one."""
    longest = config.training.max_context
    if (workspace.current_model / "config.json").is_file():
        directory = workspace.current_model
    elif config.model.path is not None:
        directory = workspace.root / Path(config.model.path).expanduser()
    else:
        tokenizer = FastTokenizer(
            byte_tokenizer.make(), {"eos_token": byte_tokenizer.END}, byte_tokenizer.CHAT_TEMPLATE
        )
        return Measure(tokenizer=tokenizer, context=min(longest, byte_tokenizer.CONTEXT))
    return measure_in(directory, longest)


def measure_in(directory: Path, longest: int) -> Measure:
    """Return the measure of the model in *directory*, for rows of at most *longest* tokens."""
    return Measure(tokenizer=_tokenizer_in(directory), context=min(longest, _context_in(directory)))


class FastTokenizer:
    """What encoding asks of a tokenizer, by the library ``tokenizers`` alone.

    *marks* are the special tokens by their names (``"eos_token"``). Raises ``jinja2.TemplateError`` for a
    *chat_template* that only ``transformers`` understands.
    """

    def __init__(self, tokenizer: Tokenizer, marks: dict[str, str], chat_template: str | None) -> None:
        self._tokenizer = tokenizer
        self._marks = marks
        self.chat_template = chat_template
        self.eos_token = marks.get("eos_token")
        self.bos_token_id = tokenizer.token_to_id(marks["bos_token"]) if "bos_token" in marks else None
        self._template = None if chat_template is None else _environment().from_string(chat_template)

    @classmethod
    def load(cls, directory: Path) -> "FastTokenizer":
        """Read the tokenizer in *directory*."""
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        settings = _document(directory / "tokenizer_config.json")
        marks = {**_marks(_document(directory / "special_tokens_map.json")), **_marks(settings)}
        return cls(tokenizer, marks, _chat_template(directory, settings))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the tokens of *text*."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def apply_chat_template(
        self, conversation: Sequence[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        """Return *conversation* as the model reads it; *tokenize* is always false."""
        assert self._template is not None
        assert not tokenize
        return self._template.render(
            messages=conversation,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._marks,
        )


def _tokenizer_in(directory: Path) -> Any:
    if (directory / "tokenizer.json").is_file():
        try:
            return FastTokenizer.load(directory)
        except (TemplateError, ValueError, KeyError, TypeError, AttributeError):
            pass  # the other way knows more kinds, and says what is wrong
    from transformers import AutoTokenizer  # noqa: PLC0415  # takes seconds and 250 MB

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def _context_in(directory: Path) -> int:
    document = _document(directory / "config.json")
    for name in _CONTEXT_NAMES:
        if isinstance(found := document.get(name), int) and found > 0:
            return found
    from thirdshift.apps.training.models.model import context_of  # noqa: PLC0415  # takes seconds and 250 MB

    return context_of(directory)


def _environment() -> ImmutableSandboxedEnvironment:
    """Templates come with models, from anywhere: they run in a sandbox, with what ``transformers`` gives them."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise(message: str) -> None:
    raise TemplateError(message)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return document if isinstance(document, dict) else {}


def _marks(settings: dict[str, Any]) -> dict[str, str]:
    """Return the special tokens by name; each stands there as a word, or as an object with its content."""
    marks = {}
    for name, value in settings.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            marks[name] = content
    return marks


def _chat_template(directory: Path, settings: dict[str, Any]) -> str | None:
    if (path := directory / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {one["name"]: one["template"] for one in found}.get("default")
    return found if isinstance(found, str) else None
