"""Training is exact: stopped, killed or robbed of its newest checkpoint, it ends with the same bits."""

import gc
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from thirdshift.apps.training.job import Progress
from thirdshift.apps.training.models.loss import summed_loss
from thirdshift.apps.training.models.model import create_tiny_model, load_model
from thirdshift.apps.training.plans.layout import MicroBatch, micro_batches
from thirdshift.apps.training.plans.plan import Plan
from thirdshift.apps.training.plans.planning import build_plan
from thirdshift.apps.training.runs import memory_watch
from thirdshift.apps.training.runs.run_manifest import RunManifest
from thirdshift.apps.training.runs.trainer import BaseChanged, Diverged, TrainingOutcome, train
from thirdshift.apps.training.saving import checkpoint_saver, staging
from thirdshift.apps.training.saving.checkpoints import Checkpoint, CheckpointStore, SetAside
from thirdshift.apps.training.settings import TrainingSettings

SETTINGS = TrainingSettings(
    epochs=3,
    batch_size=8,
    micro_batch_size=3,
    threads=2,
    learning_rate=1e-2,
    checkpoint_interval_s=1e9,
    layout="buckets",
)
TOTAL_STEPS = 30
MICRO_BATCHES = (3, 3, 3, 3, 3, 3, 3, 3, 3, 2)  # of the steps of an epoch: 76 rows, the last batch is partial


class Scene:
    """A plan and a model; each attempt trains with the same store unless another is given."""

    def __init__(self, root: Path, plan: Plan, base: Path) -> None:
        self.plan = plan
        self.base = base
        self.damaged: list[SetAside] = []
        self.store = CheckpointStore(root / "checkpoints", on_damaged=self.damaged.append)

    def train(self, settings: TrainingSettings = SETTINGS, **options: Any) -> TrainingOutcome:
        return train(self.plan, base=self.base, store=self.store, settings=settings, **options)


@pytest.fixture(scope="module")
def plan(nano_model: Path, tmp_path_factory: pytest.TempPathFactory, write_rows: Callable[..., Path]) -> Plan:
    folder = tmp_path_factory.mktemp("plan")
    _, tokenizer = load_model(nano_model)
    data = write_rows(folder / "train.jsonl", 80)
    plan = build_plan(data, folder / "plan", base=nano_model, tokenizer=tokenizer, settings=SETTINGS)
    assert plan is not None
    assert plan.total_steps == TOTAL_STEPS
    assert tuple(len(parts(plan, step)) for step in range(10)) == MICRO_BATCHES
    return plan


@pytest.fixture
def scene(tmp_path: Path, plan: Plan, nano_model: Path) -> Scene:
    return Scene(tmp_path, plan, nano_model)


@pytest.fixture(scope="module")
def undisturbed(plan: Plan, nano_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The last checkpoint of a run that nothing disturbed."""
    outcome = Scene(tmp_path_factory.mktemp("undisturbed"), plan, nano_model).train()
    assert outcome.checkpoint is not None
    return outcome.checkpoint


def replant(scene: Scene, folder: Path) -> Plan:
    """Give *scene* a copy of its plan of its own: what stands beside a plan is of one training."""
    shutil.copytree(scene.plan.directory, folder / "plan")
    scene.plan = Plan.load(folder / "plan")
    return scene.plan


def count_one_more_kill(folder: Path) -> Path:
    """Return a copy of the kernel's figures, by which one more process was killed for want of memory."""
    figures = dict(line.split() for line in memory_watch.VMSTAT.read_text().splitlines())
    figures["oom_kill"] = str(int(figures["oom_kill"]) + 1)
    copy = folder / "vmstat"
    copy.write_text("".join(f"{name} {value}\n" for name, value in figures.items()))
    return copy


def stop_after(micro_batches: int) -> Callable[[], bool]:
    """Asks for a stop once so many micro-batches were begun."""
    asked = iter(range(micro_batches))
    return lambda: next(asked, None) is None


def assert_same_bits(one: Checkpoint | None, other: Checkpoint) -> None:
    assert one is not None
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), f"{name} differs"
    assert one.facts.last_losses == other.facts.last_losses
    assert one.facts.first_losses == other.facts.first_losses
    assert one.facts.tokens == other.facts.tokens


class TestExactResume:
    def test_an_undisturbed_run_repeats_itself(self, scene: Scene, undisturbed: Checkpoint) -> None:
        """Twice the same plan gives twice the same bits."""
        outcome = scene.train()
        assert outcome.finished
        assert outcome.is_exact
        assert_same_bits(outcome.checkpoint, undisturbed)

    @pytest.mark.parametrize(("micro_batches", "step"), [(1, 0), (3, 1), (4, 1), (5, 1), (30, 10), (44, 15), (86, 29)])
    def test_a_stop_costs_nothing(self, scene: Scene, undisturbed: Checkpoint, micro_batches: int, step: int) -> None:
        """Stopped between or amid optimizer steps, the run goes on to the same bits; part of a step leaves no trace."""
        stopped = scene.train(should_stop=stop_after(micro_batches))
        assert (stopped.finished, stopped.step) == (False, step)
        resumed = scene.train()
        assert resumed.finished
        assert_same_bits(resumed.checkpoint, undisturbed)

    def test_many_stops_cost_nothing(self, scene: Scene, undisturbed: Checkpoint) -> None:
        """Stopped after every ten micro-batches, over and over: progress is made and the bits are the same."""
        attempts = 1
        while not (outcome := scene.train(should_stop=stop_after(10))).finished:
            attempts += 1
        assert attempts == TOTAL_STEPS / 3
        assert_same_bits(outcome.checkpoint, undisturbed)

    @pytest.mark.training
    def test_a_killed_process_costs_nothing(self, scene: Scene, undisturbed: Checkpoint) -> None:
        """Two processes die by SIGKILL amid their work; a third attempt ends with the same bits."""
        for count in (7, 40):
            kill_after(scene, count)
        newest = scene.store.latest_verified(scene.plan.hash)
        assert newest is not None
        assert 0 < newest.facts.step < TOTAL_STEPS
        assert_same_bits(scene.train().checkpoint, undisturbed)
        assert scene.damaged == []

    @pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "config.json", "manifest.json"])
    @pytest.mark.parametrize("how", ["flipped", "truncated", "gone"])
    def test_a_damaged_checkpoint_costs_time_only(
        self, scene: Scene, undisturbed: Checkpoint, name: str, how: str
    ) -> None:
        """The newest checkpoint is set aside, the one before it is taken, and the bits are the same."""
        for count in (12, 18):
            stopped = scene.train(should_stop=stop_after(count))
        assert stopped.step == 4 + 6
        assert stopped.checkpoint is not None
        damage(stopped.checkpoint.path / name, how)
        resumed = scene.train()
        assert [aside.path.name for aside in scene.damaged] == ["ckpt-000002"]
        assert name in " ".join(scene.damaged[0].problems)
        assert_same_bits(resumed.checkpoint, undisturbed)

    def test_any_flipped_bit_of_a_real_checkpoint_is_found(
        self, scene: Scene, damage_everywhere: Callable[..., None]
    ) -> None:
        """Of weights, optimizer, ledger, tokenizer and manifest: it is named, and the checkpoint before it is taken."""
        scene.train(replace(SETTINGS, checkpoint_steps=10, keep_checkpoints=2))
        damage_everywhere(scene.store, scene.plan.hash, scene.damaged)

    def test_no_pause_walks_through_all_that_is_loaded(self, scene: Scene) -> None:
        """A full collection would, at any step, and takes longer than a save may hold the trainer up."""
        frozen: list[int] = []
        scene.train(on_step=lambda _step, _loss: frozen.append(gc.get_freeze_count()), should_stop=stop_after(9))
        assert min(frozen) > 100_000
        assert gc.get_freeze_count() == 0

    def test_a_finished_plan_is_not_trained_again(self, scene: Scene) -> None:
        """Called again it returns the same checkpoint without a step."""
        first = scene.train()
        reports: list[Progress] = []
        again = scene.train(report=reports.append)
        assert again == first
        assert reports == []

    def test_another_base_is_refused(self, scene: Scene, tmp_path: Path) -> None:
        """Without a checkpoint, a plan is only trained on the model it was made for."""
        create_tiny_model(tmp_path / "other", seed=1, size="nano")
        scene.base = tmp_path / "other"
        with pytest.raises(BaseChanged):
            scene.train()


@pytest.mark.skipif(not memory_watch.VMSTAT.exists(), reason="the kernel counts what it kills in Linux's /proc only")
class TestKilledForMemory:
    def test_the_next_attempt_takes_half_as_many_rows_at_once(
        self, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From the step on at which it goes on: the kernel counts such kills, and its count has risen."""
        plan = replant(scene, tmp_path)
        kill_after(scene, 5)
        monkeypatch.setattr(memory_watch, "VMSTAT", count_one_more_kill(tmp_path))
        outcome = scene.train()
        assert outcome.finished
        (begin, whole), (step, half) = outcome.manifest.micro_batch_sizes
        assert (begin, whole, half) == (0, 3, 1)
        assert 0 < step < TOTAL_STEPS
        assert RunManifest.load(plan) == outcome.manifest

    def test_what_was_killed_for_another_reason_goes_on_as_it_was(self, scene: Scene, tmp_path: Path) -> None:
        """A kill by a person, or by a daemon that ends, changes no bit; and who ended by himself was not killed."""
        replant(scene, tmp_path)
        kill_after(scene, 5)
        assert scene.train(should_stop=stop_after(2)).manifest.micro_batch_sizes == ((0, 3),)
        assert not [*tmp_path.glob("*.memory.json")]


class TestLoop:
    def test_checkpoints_come_by_steps_and_old_ones_go(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every seventh step and the end; two stay, and the best."""
        monkeypatch.setattr(checkpoint_saver, "PATIENCE_S", 0.0)  # at idle priority it may come late on a busy machine
        store, steps, moments = scene.store, [0], iter(range(100_000))

        def wait_for_the_writer(progress: Progress) -> None:
            if progress.step > 7 and progress.step % 7 == 2:
                wait_until(lambda: store.list() and store.list()[-1].facts.step > steps[-1])
                steps.append(store.list()[-1].facts.step)

        settings = TrainingSettings(checkpoint_steps=7, checkpoint_interval_s=1e9, keep_checkpoints=2)
        scene.train(settings, report=wait_for_the_writer, clock=lambda: float(next(moments)))
        assert steps == [0, 7, 14, 21, 28]
        best = store.best(scene.plan.hash)
        assert best is not None
        assert {one.facts.step for one in store.list()} == {28, 30, best.facts.step}

    def test_checkpoints_come_by_time(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        """With ten seconds between two looks at the clock one is always due, and made when none is in flight."""
        monkeypatch.setattr(checkpoint_saver, "PATIENCE_S", 0.0)
        seconds = iter(range(0, 100_000, 10))

        def wait_for_the_writer(progress: Progress) -> None:
            if progress.step == 3:
                wait_until(scene.store.list)

        settings = TrainingSettings(checkpoint_interval_s=10)
        scene.train(settings, clock=lambda: float(next(seconds)), report=wait_for_the_writer)
        assert scene.store.list()[-1].sequence >= 3

    def test_without_room_for_a_checkpoint_no_step_is_made(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is said up front, and nothing is left behind."""
        monkeypatch.setattr(staging, "_SPARE_BYTES", 10**18)
        steps: list[Progress] = []
        with pytest.raises(staging.NoRoom):
            scene.train(report=steps.append)
        assert steps == []
        assert list(scene.store.directory.glob("*ckpt*")) == []

    @pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
    def test_a_last_checkpoint_that_cannot_be_written_is_an_error_and_costs_time_only(
        self, scene: Scene, undisturbed: Checkpoint
    ) -> None:
        """No file may grow any more while it trains; with room again it ends with the same bits."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)

        def take_all_room() -> bool:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            return False

        try:
            with pytest.raises(checkpoint_saver.CheckpointNotSaved, match="File too large"):
                scene.train(should_stop=take_all_room)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert scene.store.list() == []
        assert_same_bits(scene.train().checkpoint, undisturbed)

    def test_progress_is_reported_at_most_ten_times_a_second(self, scene: Scene) -> None:
        """With a clock that stands still only the first and the last step are told."""
        reports: list[Progress] = []
        scene.train(report=reports.append, clock=lambda: 0.0)
        assert [report.step for report in reports] == [1, TOTAL_STEPS]
        last = reports[-1]
        assert (last.phase, last.total_steps, last.epoch, last.eta_s) == ("training", TOTAL_STEPS, 2, 0.0)

    def test_the_loss_falls(self, scene: Scene) -> None:
        """Ten losses at the beginning and ten at the end are averaged."""
        outcome = scene.train()
        assert outcome.loss < 0.8 * outcome.first_loss
        assert outcome.tokens == 3 * scene.plan.facts.tokens

    def test_a_diverging_run_ends_with_an_error(
        self, nano_model: Path, tmp_path: Path, write_rows: Callable[..., Path]
    ) -> None:
        """A loss that is no number is never checkpointed."""
        settings = TrainingSettings(learning_rate=1e38, clip_norm=0, batch_size=8)
        _, tokenizer = load_model(nano_model)
        data = write_rows(tmp_path / "train.jsonl", 80)
        plan = build_plan(data, tmp_path / "plan", base=nano_model, tokenizer=tokenizer, settings=settings)
        assert plan is not None
        scene = Scene(tmp_path, plan, nano_model)
        with pytest.raises(Diverged, match=r"training train\.jsonl diverged: the loss of step \d+ is"):
            scene.train(settings)
        assert scene.store.list() == []


class TestGradient:
    def test_micro_batches_do_not_change_it(self, plan: Plan, nano_model: Path) -> None:
        """Eight rows in parts of three give the gradient of eight rows at once: all are divided by the same count."""
        together = gradient(nano_model, plan, [[[row] for row in plan.rows_of_step(0)]])
        in_parts = gradient(nano_model, plan, parts(plan, 0))
        for name, expected in together.items():
            torch.testing.assert_close(in_parts[name], expected, rtol=1e-4, atol=1e-6)

    def test_padding_changes_neither_logits_nor_loss(self, plan: Plan, nano_model: Path) -> None:
        """A row in a batch of longer ones reads as it does alone."""
        model, _ = load_model(nano_model)
        rows = plan.rows_of_step(0)
        batch = plan.batch([[row] for row in rows])
        assert batch.attention_mask is not None
        logits = model(torch.from_numpy(batch.input_ids), attention_mask=torch.from_numpy(batch.attention_mask)).logits
        for line, row in enumerate(rows):
            alone = torch.from_numpy(plan.batch([[row]]).input_ids)
            torch.testing.assert_close(logits[line : line + 1, : alone.shape[1]], model(alone).logits)
        losses = sum(summed_loss(model, plan.batch([[row]])) for row in rows)
        torch.testing.assert_close(summed_loss(model, batch), losses)

    def test_the_loss_is_that_of_transformers(self, plan: Plan, nano_model: Path) -> None:
        """Divided by its tokens, the loss is the one that transformers computes from the same labels."""
        model, _ = load_model(nano_model)
        batch = plan.batch([[row] for row in plan.rows_of_step(0)])
        assert batch.attention_mask is not None
        tensors = [torch.from_numpy(array) for array in (batch.input_ids, batch.attention_mask, batch.labels)]
        expected = model(input_ids=tensors[0], attention_mask=tensors[1], labels=tensors[2]).loss
        torch.testing.assert_close(summed_loss(model, batch) / (tensors[2] != -100).sum(), expected)


def parts(plan: Plan, step: int, layout: str = SETTINGS.layout) -> list[MicroBatch]:
    return micro_batches(plan.rows_of_step(step), plan.length_of_row, layout, SETTINGS.micro_batch_size)


def gradient(base: Path, plan: Plan, parts: list[MicroBatch]) -> dict[str, torch.Tensor]:
    model, _ = load_model(base)
    for rows in parts:
        (summed_loss(model, plan.batch(rows)) / plan.answer_tokens_of_step(0)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def damage(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, path.stat().st_size - 1)
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x80
        path.write_bytes(content)


CHILD = """
import sys
from pathlib import Path
from thirdshift.apps.training.saving import checkpoint_saver
from thirdshift.apps.training.saving.checkpoints import CheckpointStore
from thirdshift.apps.training.plans.plan import Plan
from thirdshift.apps.training.settings import TrainingSettings
from thirdshift.apps.training.runs.trainer import train

def tell():
    print("micro-batch", flush=True)
    sys.stdin.readline()
    return False

checkpoint_saver.PATIENCE_S = 0.0
plan, base, checkpoints = map(Path, sys.argv[1:])
settings = TrainingSettings(checkpoint_steps=1)
train(Plan.load(plan), base=base, store=CheckpointStore(checkpoints), settings=settings, should_stop=tell)
"""


def kill_after(scene: Scene, micro_batches: int) -> None:
    """Train in a process of its own, with a checkpoint at every step, and kill it after so many micro-batches.

    It is killed amid a step, when at least one checkpoint of its own is there.
    """
    arguments = [str(scene.plan.directory), str(scene.base), str(scene.store.directory)]
    sequence = max((one.sequence for one in scene.store.list()), default=0)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        for _ in range(micro_batches - 1):
            assert child.stdout.readline() == "micro-batch\n"
            child.stdin.write("go on\n")
        assert child.stdout.readline() == "micro-batch\n"
        wait_until(lambda: any(one.sequence > sequence for one in scene.store.list()))
        child.kill()
    assert child.returncode == -9


def wait_until(look: Callable[[], Any], timeout_s: float = 90) -> Any:
    """Look again and again until there is something."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain"
        time.sleep(0.005)
    return found
