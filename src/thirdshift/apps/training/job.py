"""What goes into the training of one file and what comes out of it: plain values, no torch, JSON on both sides."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from thirdshift.apps.training.settings import TrainingSettings
from thirdshift.core.errors import ThirdshiftError

OWN_EXAMINATION = "this file"


class OutOfMemory(ThirdshiftError):
    """A step did not fit into memory. The manifest already names smaller micro-batches: go on in a fresh process."""

    def __init__(self, step: int, micro_batch_size: int) -> None:
        super().__init__(
            f"step {step + 1} did not fit into memory; from it on a micro-batch has {micro_batch_size} rows. Call "
            "again, in a fresh process: it goes on at the newest checkpoint."
        )
        self.step = step
        self.micro_batch_size = micro_batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingJob:
    """One file to be trained on the current model."""

    data: Path
    """The JSONL file; it must not change any more."""

    current_model: Path
    """Directory of the model that is trained and, at the end, takes the result."""

    checkpoints: Path
    """Directory of all checkpoints."""

    work: Path
    """Directory of this file's own plan and results; the same at every attempt."""

    held_out: tuple[Path, ...] = ()
    """JSONL files of questions that are asked before and after."""

    history: Path | None = None
    """Directory of the history, from which earlier files are replayed and to which this one is added; None for none."""

    settings: TrainingSettings = field(default_factory=TrainingSettings)
    seed: int = 0

    def to_document(self) -> dict[str, Any]:
        """Return the job as JSON-ready data."""
        document = asdict(self)
        document.update({name: str(document[name]) for name in ("data", "current_model", "checkpoints", "work")})
        document["held_out"] = [str(path) for path in self.held_out]
        document["history"] = None if self.history is None else str(self.history)
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Return the job that :meth:`to_document` wrote."""
        paths = {name: Path(document[name]) for name in ("data", "current_model", "checkpoints", "work")}
        held_out = tuple(Path(path) for path in document["held_out"])
        history = None if document["history"] is None else Path(document["history"])
        settings = TrainingSettings(**document["settings"])
        return cls(**paths, held_out=held_out, history=history, settings=settings, seed=document["seed"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a file is. Everything after ``share`` is about training and zero in the other phases."""

    phase: str
    """"planning", "evaluating before", "training", "evaluating after" or "publishing"."""
    share: float = 0.0
    """How much of the file is planned, or of the examinations held, from 0 to 1; 0 in the other phases."""
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    loss: float = 0.0
    tokens_per_s: float = 0.0
    eta_s: float = 0.0
    learning_rate: float = 0.0
    checkpoint_trouble: str = ""
    """Why the newest checkpoint could not be saved; empty when it could. Another is tried when the next is due."""
    set_aside: tuple[str, ...] = ()
    """Damaged checkpoints that were met and lie under ``damaged/`` now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """An examination: how many questions were answered exactly, and the loss per token of the right answers."""

    asked: int
    right: int
    loss: float
    by_level: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Level to (right, asked), for questions that name one."""

    @property
    def accuracy(self) -> float:
        """Share of exact answers, 0 when nothing was asked."""
        return self.right / self.asked if self.asked else 0.0

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Return the evaluation that ``dataclasses.asdict`` made JSON-ready."""
        levels = {level: (right, asked) for level, (right, asked) in document["by_level"].items()}
        return cls(**{**document, "by_level": levels})


@dataclass(frozen=True, kw_only=True, slots=True)
class FileResult:
    """What came of one file. ``finished`` is false when it was interrupted: call again with the same job."""

    finished: bool
    step: int = 0
    total_steps: int = 0
    rows: int = 0
    """Rows that are trained."""
    held_out_rows: int = 0
    cut_rows: int = 0
    """Rows that lost the beginning of their question to the context's limit."""
    replay_rows: int = 0
    """Rows of earlier files that are trained beside them in each epoch."""
    replayed: tuple[str, ...] = ()
    """The earlier files that those come from."""
    missing: tuple[str, ...] = ()
    """What of earlier files could not be replayed or asked again, and why."""
    tokens: int = 0
    seconds: float = 0.0
    """Seconds of training, all attempts together."""
    first_loss: float = 0.0
    """Mean loss of the first ten steps."""
    last_loss: float = 0.0
    """Mean loss of the newest ten steps."""
    is_exact: bool = True
    """False when an attempt went on under other numerics (another torch, another processor)."""
    layout: str = ""
    """How rows lay beside each other: "packed", "buckets" or "alone"."""
    layout_why: str = ""
    """Why it is not the layout that the settings name."""
    precision: str = ""
    """"fp32", "bf16" or "fp16"."""
    micro_batch_size: int = 0
    """Rows that went through the model at once at the end; less than the settings say after a lack of memory."""
    checkpoint: str = ""
    """Name of the newest checkpoint, empty when training had not begun."""
    set_aside: tuple[str, ...] = ()
    """Damaged checkpoints that were met on the way and lie under ``damaged/`` now."""
    before: dict[str, Evaluation] = field(default_factory=dict)
    """Held-out file's name (and "this file" for its own rows) to the examination before training."""
    after: dict[str, Evaluation] = field(default_factory=dict)
    earlier_before: dict[str, Evaluation] = field(default_factory=dict)
    """Key of an earlier file's record in the history to its examination before training."""
    earlier_after: dict[str, Evaluation] = field(default_factory=dict)
    held_back: tuple[str, ...] = ()
    """Which earlier files it makes worse than it may, and how: then the current model stays as it was."""
    is_accepted: bool = False
    """True when it does, and a person wants it published all the same."""

    @property
    def accuracy_before(self) -> float:
        """Share of exact answers before training, all examinations together."""
        return _overall(self.before.values())

    @property
    def accuracy_after(self) -> float:
        """Share of exact answers after training, all examinations together."""
        return _overall(self.after.values())

    def to_document(self) -> dict[str, Any]:
        """Return the result as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Return the result that :meth:`to_document` wrote."""
        known = {each.name: document[each.name] for each in fields(cls) if each.name in document}
        for name in ("set_aside", "replayed", "missing", "held_back"):
            known[name] = tuple(document.get(name, ()))
        for moment in ("before", "after", "earlier_before", "earlier_after"):
            examined = document.get(moment, {})
            known[moment] = {name: Evaluation.from_document(found) for name, found in examined.items()}
        return cls(**known)


def _overall(evaluations: Iterable[Evaluation]) -> float:
    evaluations = tuple(evaluations)
    asked = sum(evaluation.asked for evaluation in evaluations)
    return sum(evaluation.right for evaluation in evaluations) / asked if asked else 0.0
