"""The loop: from the newest sound checkpoint of a plan to its last step, exactly, however often it is killed.

Three things make it exact. Rows, learning rate and random seeds are pure functions of plan and step. Checkpoints hold
whole optimizer steps only; a step that was cut short leaves no trace and is done again. Numerics are pinned.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import torch
from blake3 import blake3

from thirdshift.apps.training.job import OutOfMemory, Progress
from thirdshift.apps.training.models.loss import summed_loss
from thirdshift.apps.training.models.model import load_model, model_hash, tokenizer_files
from thirdshift.apps.training.models.precision import (
    LossScale,
    computing,
    device_here,
    is_out_of_memory,
    precision_here,
)
from thirdshift.apps.training.models.publish import published_checkpoint
from thirdshift.apps.training.plans.layout import micro_batches
from thirdshift.apps.training.plans.layout_check import check_layout
from thirdshift.apps.training.plans.plan import Plan
from thirdshift.apps.training.runs.memory_watch import MemoryWatch
from thirdshift.apps.training.runs.run_manifest import NotEnoughMemory, RunManifest
from thirdshift.apps.training.saving.checkpoint_saver import CheckpointNotSaved, CheckpointSaver
from thirdshift.apps.training.saving.checkpoints import Checkpoint, CheckpointFacts, CheckpointStore
from thirdshift.apps.training.saving.ledger import RowLedger
from thirdshift.apps.training.saving.staging import demand_disk
from thirdshift.apps.training.saving.state import make_optimizer, prepare_numerics, read_optimizer
from thirdshift.apps.training.saving.state_image import StateImage
from thirdshift.apps.training.settings import TrainingSettings
from thirdshift.core.errors import ThirdshiftError
from thirdshift.host.garbage import loaded_objects_frozen

REPORT_INTERVAL_S = 0.1
LOSSES_KEPT = 10

_logger = logging.getLogger("thirdshift.training")


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
    manifest: RunManifest
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
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingOutcome:
    """Train *plan* from its newest sound checkpoint, or from *base*, to its end or until *should_stop*.

    *should_stop* is asked before every micro-batch; a checkpoint of the last whole step is saved before returning.
    *on_step* is told of each step, from 0, and its loss; after a crash of some again, and of the same losses. The
    checkpoint that *base* was published from is not pruned, for the new model may yet be held back.

    Raises ``NoRoom`` before the first step when memory or disk have no room for a checkpoint, and
    ``CheckpointNotSaved`` when that last one fails. One that fails on the way is told by *report*, and tried again.
    """
    trainer = Trainer.recover(plan, base=base, store=store, clock=clock)
    pace = _Pace(plan, clock, first_step=trainer.facts.step)
    memory = MemoryWatch(plan)
    try:
        if trainer.facts.step < plan.total_steps:
            trainer.prepare_saving(settings, keep=published_checkpoint(base))
            if memory.begin():
                trainer.take_less_memory(trainer.facts.step)
        with loaded_objects_frozen():
            for step in range(trainer.facts.step, plan.total_steps):
                loss = trainer.take_step(step, should_stop)
                if loss is None:
                    break
                on_step(step, loss)
                trainer.save_when_due(settings)
                pace.report(step, loss, report, trainer.trouble)
        trainer.finish_saving()
    finally:
        memory.end()
        trainer.close()
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
        self._device = device_here()
        model, _ = load_model(source, attention=plan.settings.attention)
        self.model = model.to(self._device)
        self.manifest = _manifest_of(plan, self.model)
        if plan.settings.gradient_checkpointing:
            _compute_activations_twice(self.model)
        self.model.train()
        self.optimizer = make_optimizer(self.model, plan.settings)
        self.ledger = RowLedger.empty(plan.row_count)
        self._image: StateImage | None = None
        self._saver: CheckpointSaver | None = None
        self._is_due = False

    @classmethod
    def recover(cls, plan: Plan, *, base: Path, store: CheckpointStore, clock: Callable[[], float]) -> Self:
        """Return a trainer at the newest sound checkpoint of *plan*, or at *base* when there is none."""
        begun = RunManifest.load(plan)
        precision = begun.precision if begun else precision_here(plan.settings.precision)
        numerics = prepare_numerics(plan.settings, precision)
        with store.writing():  # whoever wrote here is gone
            pass
        newest = store.latest_verified(plan.hash)
        if newest is None:
            if model_hash(base) != plan.facts.base_hash:
                raise BaseChanged(base)
            return cls(plan, source=base, store=store, facts=_facts_at_start(plan, numerics, precision), clock=clock)
        is_exact = newest.facts.is_exact and newest.facts.numerics == numerics
        facts = replace(newest.facts, numerics=numerics, is_exact=is_exact)
        trainer = cls(plan, source=newest.path, store=store, facts=facts, clock=clock)
        read_optimizer(newest.path, model=trainer.model, optimizer=trainer.optimizer)
        trainer.ledger = RowLedger.load(newest.path)
        trainer.saved = newest
        return trainer

    def take_step(self, step: int, should_stop: Callable[[], bool]) -> float | None:
        """Make optimizer step *step* and return its loss, or None when a stop was asked for on the way.

        Raises :class:`OutOfMemory` after the manifest was changed to smaller micro-batches, and
        :class:`NotEnoughMemory` when they cannot be smaller. Then this trainer must not be used any more.
        """
        try:
            loss = self._accumulate(step, should_stop)
            if loss is not None:
                self._update(step, loss)
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(step, self.take_less_memory(step)) from error
            raise
        return loss

    def take_less_memory(self, step: int) -> int:
        """Halve the micro-batches from *step* on, durably; returns their rows, or raises :class:`NotEnoughMemory`."""
        if self.manifest.layout == "alone" or self.manifest.micro_batch_size_of_step(step) == 1:
            raise NotEnoughMemory(self._plan.facts.data_name, step)
        self.manifest = self.manifest.halved(step)
        self.manifest.save(self._plan)
        rows = self.manifest.micro_batch_size_of_step(step)
        _logger.warning("training.less_memory from_step=%d micro_batch_size=%d", step + 1, rows)
        return rows

    def _accumulate(self, step: int, should_stop: Callable[[], bool]) -> float | None:
        """Gather the gradient of *step*, each part divided by the answer tokens of the whole step."""
        self.optimizer.zero_grad(set_to_none=True)
        plan, manifest = self._plan, self.manifest
        answer_tokens = max(1, plan.answer_tokens_of_step(step))
        size = manifest.micro_batch_size_of_step(step)
        scale = self.facts.loss_scale[0]
        loss = 0.0
        parts = micro_batches(plan.rows_of_step(step), plan.length_of_row, manifest.layout, size)
        for number, rows in enumerate(parts):
            if should_stop():
                return None
            self._seed_randomness(_seed(plan.hash, step, number))
            with computing(manifest.precision, self._device):
                part = summed_loss(self.model, plan.batch(rows)) / answer_tokens
            (part * scale if scale != 1.0 else part).backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        if not math.isfinite(loss):
            raise Diverged(plan.facts.data_name, step, loss)
        self.ledger.add(parts)
        return loss

    def _seed_randomness(self, seed: int) -> None:
        """Do what ``torch.manual_seed`` does, for this device alone: for all of them it takes a millisecond."""
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _update(self, step: int, loss: float) -> None:
        """Make the optimizer step for the gradient that was gathered; one that overflowed in fp16 is passed over."""
        scale = LossScale(factor=self.facts.loss_scale[0], good_steps=self.facts.loss_scale[1])
        overflowed = scale.is_needed and scale.take_back(self.model.parameters())
        scale = scale.after(overflowed=overflowed)
        if not overflowed:
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
            loss_scale=(scale.factor, scale.good_steps),
        )

    def prepare_saving(self, settings: TrainingSettings, keep: str = "") -> None:
        """Take the memory for checkpoints, once and for all; raises ``NoRoom`` when that or the disk has no room.

        The checkpoint called *keep* is never pruned.
        """
        self._image = StateImage(
            model=self.model,
            optimizer=self.optimizer,
            tokenizer_files=self._tokenizer_files,
            rows=self._plan.row_count,
            scratch=self._store.directory / ".scratch",
        )
        demand_disk(self._store.directory, self._image.buffer.size_bytes)
        buffer, keep_last = self._image.buffer, settings.keep_checkpoints
        self._saver = CheckpointSaver(self._store, buffer, keep_last=keep_last, keep=[keep])

    @property
    def trouble(self) -> str:
        """Why the newest checkpoint could not be saved; empty when it could."""
        return self._saver.trouble if self._saver else ""

    def save_when_due(self, settings: TrainingSettings) -> None:
        """Ask for a checkpoint when one is due and none is in flight; else the next step asks. Never waits."""
        assert self._saver is not None
        self.saved = self._saver.poll() or self.saved
        if self.facts.step == self.facts.total_steps:
            return
        self._is_due = self._is_due or self._is_checkpoint_due(settings)
        if self._is_due and not self._saver.is_busy:
            self._is_due = False
            self._save()

    def finish_saving(self) -> None:
        """Save what no checkpoint holds, at normal priority; raises ``CheckpointNotSaved`` when that fails."""
        if self._saver is None:
            return
        self.saved = self._saver.wait() or self.saved
        if self.facts.step > (self.saved.facts.step if self.saved else 0):
            self._save()
            self.saved = self._saver.wait() or self.saved
            if self.saved is None or self.saved.facts.step < self.facts.step:
                raise CheckpointNotSaved(self._store.directory, self.trouble)

    def close(self) -> None:
        """End the writer and give the staging memory back."""
        if self._saver is not None:
            self._saver.close()
        if self._image is not None:
            self._image.close()

    def _is_checkpoint_due(self, settings: TrainingSettings) -> bool:
        if settings.checkpoint_steps and self.facts.step % settings.checkpoint_steps == 0:
            return True
        return self._clock() - self._saved_at >= settings.checkpoint_interval_s

    def _save(self) -> None:
        assert self._image is not None
        assert self._saver is not None
        now = self._clock()
        facts = replace(self.facts, seconds=self.facts.seconds + now - self._started_at)
        self._saver.save(self._image.stage(self.ledger.content()), facts)
        self._saved_at = now

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
            manifest=self.manifest,
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

    def report(self, step: int, loss: float, report: Callable[[Progress], None], trouble: str) -> None:
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
                checkpoint_trouble=trouble,
            )
        )


def _manifest_of(plan: Plan, model: Any) -> RunManifest:
    """Return the manifest of *plan*; the first time the model is asked what layout it can bear."""
    begun = RunManifest.load(plan)
    if begun is not None:
        return begun
    found = check_layout(model, plan, plan.settings.layout)
    if found.why:
        _logger.warning("training.slower_layout layout=%s why=%s", found.layout, found.why)
    manifest = RunManifest(
        plan_hash=plan.hash,
        layout=found.layout,
        layout_why=found.why,
        precision=precision_here(plan.settings.precision),
        micro_batch_sizes=((0, plan.settings.micro_batch_size),),
    )
    manifest.save(plan)
    return manifest


def _compute_activations_twice(model: Any) -> None:
    """Switch gradient checkpointing on; transformers renames it on the way from version 5 to 6."""
    switch = getattr(model, "activation_checkpointing_enable", None)
    if switch is None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        switch()


def _facts_at_start(plan: Plan, numerics: dict[str, str], precision: str) -> CheckpointFacts:
    return CheckpointFacts(
        plan_hash=plan.hash,
        base_hash=plan.facts.base_hash,
        data_name=plan.facts.data_name,
        step=0,
        total_steps=plan.total_steps,
        numerics=numerics,
        loss_scale=(LossScale.first(precision).factor, 0),
    )


def _seed(plan_hash: str, step: int, micro_batch: int) -> int:
    digest = blake3(f"{plan_hash} step {step} micro-batch {micro_batch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
