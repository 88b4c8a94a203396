"""Training beside the bare loop of the same model and data, and beside ``transformers.Trainer`` on the same file.

Run it alone: ``python benchmarks/training.py [--steps 60]``. Sides take turns in blocks of a few steps, so that a busy
machine slows all of them; what counts is the ratio. Needs ``accelerate`` for the second comparison.
"""

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

importlib.import_module("thirdshift.apps.training")  # before torch: it says how threads wait for each other

import torch  # noqa: E402

from thirdshift.apps.training import syllo  # noqa: E402
from thirdshift.apps.training.data.batches import NOT_TRAINED  # noqa: E402
from thirdshift.apps.training.models.model import create_tiny_model, load_model  # noqa: E402
from thirdshift.apps.training.plans.layout import micro_batches  # noqa: E402
from thirdshift.apps.training.plans.plan import Plan  # noqa: E402
from thirdshift.apps.training.plans.planning import build_plan  # noqa: E402
from thirdshift.apps.training.runs.trainer import Trainer, train  # noqa: E402
from thirdshift.apps.training.saving.checkpoints import CheckpointStore  # noqa: E402
from thirdshift.apps.training.saving.state import make_optimizer, prepare_numerics  # noqa: E402
from thirdshift.apps.training.settings import TrainingSettings  # noqa: E402

BLOCK = 2
"""Steps that a side makes before it is the other's turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="tiny")
    steps, rounds, size = (getattr(parser.parse_args(), name) for name in ("steps", "rounds", "size"))
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        create_tiny_model(room / "model", size=size)
        syllo.write_jsonl(room / "rows.jsonl", syllo.generate(16 * steps, seed=1, levels=(1, 2, 3, 4, 5)))
        for layout in ("packed", "buckets"):
            clock, processor = beside_the_bare_loop(room, layout)
            print(
                f"bare loop, {layout}: {clock - 1:+.1%} by the clock, {processor - 1:+.1%} processor time", flush=True
            )
        beside_transformers(room, rounds)


def plan_of(room: Path, layout: str) -> Plan:
    settings = TrainingSettings(epochs=1, layout=layout, held_out_percent=0, checkpoint_interval_s=1e9)
    directory = room / f"plan-{layout}"
    if directory.exists():
        return Plan.load(directory)
    _, tokenizer = load_model(room / "model")
    plan = build_plan(room / "rows.jsonl", directory, base=room / "model", tokenizer=tokenizer, settings=settings)
    assert plan is not None
    return plan


def beside_the_bare_loop(room: Path, layout: str) -> tuple[float, float]:
    """Return our time per step as a multiple of the bare loop's: medians over blocks that follow each other.

    By the clock and by processor time, which others on the machine disturb less.
    """
    plan = plan_of(room, layout)
    store = CheckpointStore(room / f"checkpoints-{layout}")
    ours = Trainer.recover(plan, base=room / "model", store=store, clock=time.monotonic)
    bare = BareLoop(room / "model", plan, layout)
    by_clock, by_processor = [], []
    for start in range(0, plan.total_steps - BLOCK, BLOCK):
        block = range(start, start + BLOCK)
        sides = [(lambda step: ours.take_step(step, lambda: False)), bare.take_step]
        took = {}
        for side in sides if start % (2 * BLOCK) else reversed(sides):
            began, used = time.perf_counter(), time.process_time()
            for step in block:
                side(step)
            took[side] = time.perf_counter() - began, time.process_time() - used
        by_clock.append(took[sides[0]][0] / took[sides[1]][0])
        by_processor.append(took[sides[0]][1] / took[sides[1]][1])
    same = all(torch.equal(*pair) for pair in zip(ours.model.parameters(), bare.model.parameters(), strict=True))
    print(f"  both end with the same weights: {same}")
    return statistics.median(by_clock[1:]), statistics.median(by_processor[1:])


class BareLoop:
    """What anybody would write: forward, backward, clip, step; its batches are tensors before the clock runs."""

    def __init__(self, base: Path, plan: Plan, layout: str) -> None:
        self.model, _ = load_model(base)
        self.model.train()
        self.plan = plan
        self.optimizer = make_optimizer(self.model, plan.settings)
        self.batches = [self._tensors(step, layout) for step in range(plan.total_steps)]

    def _tensors(self, step: int, layout: str) -> list[dict[str, torch.Tensor]]:
        plan = self.plan
        parts = micro_batches(plan.rows_of_step(step), plan.length_of_row, layout, plan.settings.micro_batch_size)
        found = []
        for part in parts:
            batch = plan.batch(part)
            places = torch.from_numpy((batch.labels[:, 1:] != NOT_TRAINED).any(axis=0).nonzero()[0])
            tensors = {"logits_to_keep": places, "labels": torch.from_numpy(batch.labels)[:, places + 1]}
            for name in ("input_ids", "attention_mask", "position_ids"):
                if (array := getattr(batch, name)) is not None:
                    tensors[name] = torch.from_numpy(array)
            found.append(tensors)
        return found

    def take_step(self, step: int) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        total = self.plan.answer_tokens_of_step(step)
        loss_of_step = 0.0
        for tensors in self.batches[step]:
            inputs = {name: tensor for name, tensor in tensors.items() if name != "labels"}
            logits = self.model(**inputs, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), tensors["labels"].flatten(), ignore_index=NOT_TRAINED, reduction="sum"
            )
            (loss / total).backward()
            loss_of_step += loss.item() / total
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate_of_step(step)
        self.optimizer.step()
        return loss_of_step


def beside_transformers(room: Path, rounds: int) -> None:
    """Train the whole file with both, in turn; print rows a second from the first step to the last, and the loss.

    A second by the clock, and one of processor time.
    """
    try:
        import accelerate  # noqa: F401, PLC0415
    except ImportError:
        print("transformers.Trainer: skipped, accelerate is not installed", file=sys.stderr)
        return
    found: dict[str, list[tuple[float, float, float]]] = {}
    for number in range(rounds):
        for layout in ("packed", "buckets"):
            found.setdefault(f"ours, {layout}", []).append(ours_whole(room, layout, number))
        found.setdefault("transformers.Trainer", []).append(theirs_whole(room))
    theirs = found["transformers.Trainer"]
    for who, runs in found.items():
        clock, processor = (
            statistics.median(one[kind] / other[kind] for one, other in zip(runs, theirs, strict=True))
            for kind in (0, 1)
        )
        rate = statistics.median(rate for rate, _, _ in runs)
        loss = statistics.fmean(loss for _, _, loss in runs)
        print(
            f"{who}: {rate:,.0f} rows/s, {clock:.2f} x by the clock, {processor:.2f} x by processor time, "
            f"mean loss of the last steps {loss:.4f}"
        )


def ours_whole(room: Path, layout: str, number: int) -> tuple[float, float, float]:
    plan = plan_of(room, layout)
    store = CheckpointStore(room / f"whole-{layout}-{number}")
    moments: list[tuple[float, float, int]] = []
    outcome = train(
        plan,
        base=room / "model",
        store=store,
        settings=TrainingSettings(checkpoint_interval_s=1e9),
        report=lambda progress: moments.append((time.perf_counter(), time.process_time(), progress.step)),
    )
    rows = (moments[-1][2] - moments[0][2]) * plan.settings.batch_size
    return rows / (moments[-1][0] - moments[0][0]), rows / (moments[-1][1] - moments[0][1]), outcome.loss


def theirs_whole(room: Path) -> tuple[float, float, float]:
    """The same rows, batch, accumulation, schedule and optimizer; padded to the longest row of each micro-batch."""
    from transformers import Trainer as Theirs  # noqa: PLC0415
    from transformers import TrainerCallback, TrainingArguments  # noqa: PLC0415

    plan = plan_of(room, "buckets")
    settings = plan.settings
    model, _ = load_model(room / "model")
    moments: list[tuple[float, float]] = []
    losses: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append((time.perf_counter(), time.process_time()))

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    def collate(rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        batch = plan.batch([[row["row"]] for row in rows])
        assert batch.attention_mask is not None
        arrays = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    prepare_numerics(settings)
    arguments = TrainingArguments(
        output_dir=str(room / "theirs"),
        num_train_epochs=1,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(settings.warmup_steps, plan.total_steps // 10),
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        max_grad_norm=settings.clip_norm,
        optim="adamw_torch_fused",
        use_cpu=True,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    rows = [{"row": row} for row in range(plan.facts.rows)]
    with open(os.devnull, "w") as nowhere:
        printed, sys.stdout = sys.stdout, nowhere
        try:
            Theirs(model, arguments, collate, train_dataset=rows, callbacks=[Watch()]).train()
        finally:
            sys.stdout = printed
    trained = (len(moments) - 1) * settings.batch_size
    return trained / (moments[-1][0] - moments[0][0]), trained / (moments[-1][1] - moments[0][1]), losses[-1]


if __name__ == "__main__":
    main()
