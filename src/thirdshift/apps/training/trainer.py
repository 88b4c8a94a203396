"""The loop: from the newest sound checkpoint of a plan to its last step, exactly, however often it is killed.

Three things make it exact. Rows, learning rate and random seeds are pure functions of plan and step. Checkpoints hold
whole optimizer steps only; a step that was cut short leaves no trace and is done again. Numerics are pinned.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Self

import torch
from blake3 import blake3

from thirdshift.apps.training.checkpoints import Checkpoint, CheckpointFacts, CheckpointStore
from thirdshift.apps.training.job import Progress
from thirdshift.apps.training.loss import summed_loss
from thirdshift.apps.training.model import load_model, model_hash, tokenizer_files
from thirdshift.apps.training.plan import Plan
from thirdshift.apps.training.settings import TrainingSettings
from thirdshift.apps.training.state import make_optimizer, prepare_numerics, read_optimizer, write_state
from thirdshift.core.errors import ThirdshiftError

REPORT_INTERVAL_S = 0.1
LOSSES_KEPT = 10


class BaseChanged(ThirdshiftError):
    """The model that a plan was made for is not there any more, and neither is a checkpoint to go on from."""

    def __init__(self, base: Path) -> None:
        super().__init__(
            f"{base} is not the model that this file's plan was made for, and no sound checkpoint of the plan is left. "
            "Restore the model from a snapshot, or remove the plan to train the file on the model as it is now."
        )


class Diverged(ThirdshiftError):
    """The loss is no number any more; going on would only destroy the model."""

    def __init__(self, data_name: str, step: int, loss: float) -> None:
        super().__init__(
            f"training {data_name} diverged: the loss of step {step + 1} is {loss}. The last checkpoint is older. "
            "Train with a lower learning rate, and look at the rows of the file."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOutcome:
    """Where training stands when :func:`train` returns; ``finished`` is false after a stop."""

    finished: bool
    step: int
    total_steps: int
    first_loss: float
    loss: float
    """Mean of the newest ten steps."""
    tokens: int
    seconds: float
    is_exact: bool
    checkpoint: Checkpoint | None
    """None when a stop came before the first step."""


def train(
    plan: Plan,
    *,
    base: Path,
    store: CheckpointStore,
    settings: TrainingSettings,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingOutcome:
    """Train *plan* from its newest sound checkpoint, or from *base*, to its end or until *should_stop*.

    *should_stop* is asked before every micro-batch; a checkpoint of the last whole step is saved before returning.
    """
    trainer = Trainer.recover(plan, base=base, store=store, clock=clock)
    pace = _Pace(plan, clock, first_step=trainer.facts.step)
    for step in range(trainer.facts.step, plan.total_steps):
        loss = trainer.accumulate(step, should_stop)
        if loss is None:
            break
        trainer.update(step, loss)
        pace.report(step, loss, report)
        if trainer.is_checkpoint_due(settings):
            trainer.save()
            store.prune(keep_last=settings.keep_checkpoints)
    if trainer.has_unsaved_steps:
        trainer.save()
        store.prune(keep_last=settings.keep_checkpoints)
    return trainer.outcome()


class Trainer:
    """A model and its optimizer at one step of a plan; ``facts`` says at which."""

    def __init__(
        self, plan: Plan, *, source: Path, store: CheckpointStore, facts: CheckpointFacts, clock: Callable[[], float]
    ) -> None:
        self.facts = facts
        self.saved: Checkpoint | None = None
        self._plan = plan
        self._store = store
        self._tokenizer_files = tokenizer_files(source)
        self._clock = clock
        self._started_at = self._saved_at = clock()
        self.model, _ = load_model(source, attention=plan.settings.attention)
        self.model.train()
        self.optimizer = make_optimizer(self.model, plan.settings)

    @classmethod
    def recover(cls, plan: Plan, *, base: Path, store: CheckpointStore, clock: Callable[[], float]) -> Self:
        """Return a trainer at the newest sound checkpoint of *plan*, or at *base* when there is none."""
        numerics = prepare_numerics(plan.settings)
        store.sweep()
        newest = store.latest_verified(plan.hash)
        if newest is None:
            if model_hash(base) != plan.facts.base_hash:
                raise BaseChanged(base)
            return cls(plan, source=base, store=store, facts=_facts_at_start(plan, numerics), clock=clock)
        is_exact = newest.facts.is_exact and newest.facts.numerics == numerics
        facts = replace(newest.facts, numerics=numerics, is_exact=is_exact)
        trainer = cls(plan, source=newest.path, store=store, facts=facts, clock=clock)
        read_optimizer(newest.path, model=trainer.model, optimizer=trainer.optimizer)
        trainer.saved = newest
        return trainer

    def accumulate(self, step: int, should_stop: Callable[[], bool]) -> float | None:
        """Gather the gradient of *step* and return its loss, or None when a stop was asked for on the way."""
        self.optimizer.zero_grad(set_to_none=True)
        answer_tokens = self._plan.answer_tokens_of_step(step)
        loss = 0.0
        for number, rows in enumerate(self._plan.rows_of_step(step)):
            if should_stop():
                return None
            torch.manual_seed(_seed(self._plan.hash, step, number))
            part = summed_loss(self.model, self._plan.batch(rows)) / answer_tokens
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        if not math.isfinite(loss):
            raise Diverged(self._plan.facts.data_name, step, loss)
        return loss

    def update(self, step: int, loss: float) -> None:
        """Make the optimizer step for the gradient that was gathered."""
        if self._plan.settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._plan.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self._plan.learning_rate_of_step(step)
        self.optimizer.step()
        self.facts = replace(
            self.facts,
            step=step + 1,
            epoch=self._plan.epoch_of_step(step),
            tokens=self.facts.tokens + self._plan.tokens_of_step(step),
            first_losses=(*self.facts.first_losses, loss)[:LOSSES_KEPT],
            last_losses=(*self.facts.last_losses, loss)[-LOSSES_KEPT:],
        )

    @property
    def has_unsaved_steps(self) -> bool:
        """True when steps were made that no checkpoint holds."""
        return self.facts.step > (self.saved.facts.step if self.saved else 0)

    def is_checkpoint_due(self, settings: TrainingSettings) -> bool:
        """True when the interval has passed or the step is one that asks for a checkpoint."""
        if settings.checkpoint_steps and self.facts.step % settings.checkpoint_steps == 0:
            return True
        return self._clock() - self._saved_at >= settings.checkpoint_interval_s

    def save(self) -> None:
        """Write a checkpoint of the state as it is; it is durable on return."""
        now = self._clock()
        facts = replace(self.facts, seconds=self.facts.seconds + now - self._started_at)
        files = self._tokenizer_files
        self.saved = self._store.save(
            lambda folder: write_state(folder, model=self.model, optimizer=self.optimizer, tokenizer_files=files), facts
        )
        self._saved_at = self._clock()

    def outcome(self) -> TrainingOutcome:
        """Return where training stands, by the newest checkpoint."""
        facts = self.saved.facts if self.saved else self.facts
        return TrainingOutcome(
            finished=facts.step == facts.total_steps,
            step=facts.step,
            total_steps=facts.total_steps,
            first_loss=fmean(facts.first_losses or [0.0]),
            loss=fmean(facts.last_losses or [0.0]),
            tokens=facts.tokens,
            seconds=facts.seconds,
            is_exact=facts.is_exact,
            checkpoint=self.saved,
        )


class _Pace:
    """Tells how fast this attempt is, at most ten times a second."""

    def __init__(self, plan: Plan, clock: Callable[[], float], *, first_step: int) -> None:
        self._plan = plan
        self._clock = clock
        self._first_step = first_step
        self._started_at = clock()
        self._reported_at = -math.inf
        self._tokens = 0

    def report(self, step: int, loss: float, report: Callable[[Progress], None]) -> None:
        now = self._clock()
        self._tokens += self._plan.tokens_of_step(step)
        is_last = step + 1 == self._plan.total_steps
        if now - self._reported_at < REPORT_INTERVAL_S and not is_last:
            return
        self._reported_at = now
        seconds = max(now - self._started_at, 1e-9)
        report(
            Progress(
                phase="training",
                step=step + 1,
                total_steps=self._plan.total_steps,
                epoch=self._plan.epoch_of_step(step),
                loss=loss,
                tokens_per_s=self._tokens / seconds,
                eta_s=(self._plan.total_steps - step - 1) * seconds / (step + 1 - self._first_step),
                learning_rate=self._plan.learning_rate_of_step(step),
            )
        )


def _facts_at_start(plan: Plan, numerics: dict[str, str]) -> CheckpointFacts:
    return CheckpointFacts(
        plan_hash=plan.hash,
        base_hash=plan.facts.base_hash,
        data_name=plan.facts.data_name,
        step=0,
        total_steps=plan.total_steps,
        epoch=0,
        first_losses=(),
        last_losses=(),
        tokens=0,
        seconds=0.0,
        numerics=numerics,
    )


def _seed(plan_hash: str, step: int, micro_batch: int) -> int:
    digest = blake3(f"{plan_hash} step {step} micro-batch {micro_batch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
