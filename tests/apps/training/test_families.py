"""Any causal language model of transformers can be trained, in any precision, and ends with the same bits."""

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thirdshift.apps.training.data.encoding import encode_question, encode_row
from thirdshift.apps.training.data.rows import BadRow, parse_row
from thirdshift.apps.training.job import FileResult, OutOfMemory, Progress, TrainingJob
from thirdshift.apps.training.models.model import load_model, model_hash
from thirdshift.apps.training.models.precision import LossScale
from thirdshift.apps.training.plans.plan import Plan
from thirdshift.apps.training.runs.run_manifest import DamagedManifest, NotEnoughMemory, RunManifest
from thirdshift.apps.training.runs.train_file import train_file, train_here
from thirdshift.apps.training.saving.checkpoints import CheckpointStore
from thirdshift.apps.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=1, batch_size=8, micro_batch_size=4, learning_rate=1e-3, checkpoint_interval_s=1e9)
MakeJob = Callable[..., TrainingJob]


@pytest.fixture
def make_job(tmp_path: Path, model_of: Callable[[str], Path], write_rows: Callable[..., Path]) -> MakeJob:
    """Makes a small job of a family in a folder of its own."""

    def make(family: str, name: str = "job", **settings: object) -> TrainingJob:
        root = tmp_path / name
        shutil.copytree(model_of(family), root / "model")
        return TrainingJob(
            data=write_rows(root / "train.jsonl", 40),
            current_model=root / "model",
            checkpoints=root / "checkpoints",
            work=root / "work",
            settings=replace(SETTINGS, **settings),  # type: ignore[arg-type]
        )

    return make


def train_with_stops(job: TrainingJob, every: int = 11) -> FileResult:
    """Train *job*, stopped after every few micro-batches, each time by another trainer."""
    while True:
        looks = iter(range(every))
        is_training = False

        def report(progress: Progress) -> None:
            nonlocal is_training
            is_training = progress.phase == "training"

        def should_stop() -> bool:
            return is_training and next(looks, None) is None  # noqa: B023  # it lives as long as the loop's turn

        if (result := train_file(job, report=report, should_stop=should_stop)).finished:
            return result


class TestFamilies:
    @pytest.mark.parametrize(
        ("family", "layout"),
        [("gpt2", "packed"), ("llama", "packed"), ("qwen3", "packed"), ("bloom", "buckets"), ("mamba", "buckets")],
    )
    def test_stopped_or_not_it_ends_with_the_same_bits(self, make_job: MakeJob, family: str, layout: str) -> None:
        """Also with dropout (GPT-2) and with a layout that the model could not bear."""
        whole = train_file(undisturbed := make_job(family, "undisturbed"))
        assert (whole.layout, whole.precision, whole.micro_batch_size, whole.is_exact) == (layout, "fp32", 4, True)
        assert bool(whole.layout_why) == (layout == "buckets")
        assert whole.after["this file"].loss < whole.before["this file"].loss
        train_with_stops(disturbed := make_job(family, "disturbed"))
        assert model_hash(disturbed.current_model) == model_hash(undisturbed.current_model)

    @pytest.mark.parametrize(
        "settings",
        [{"precision": "bf16"}, {"precision": "fp16"}, {"gradient_checkpointing": True}, {"layout": "alone"}],
        ids=["bf16", "fp16", "gradient checkpointing", "alone"],
    )
    def test_every_way_to_compute_is_exact(self, make_job: MakeJob, settings: dict[str, object]) -> None:
        """Half precision, scaled losses and activations computed twice change the result, and stops do not."""
        whole = train_file(undisturbed := make_job("gpt2", "undisturbed", **settings))
        assert whole.after["this file"].loss < whole.before["this file"].loss
        train_with_stops(disturbed := make_job("gpt2", "disturbed", **settings))
        assert model_hash(disturbed.current_model) == model_hash(undisturbed.current_model)


class TestLossScale:
    def test_an_overflow_halves_it(self) -> None:
        """The step is passed over and the next one tries half of it; other precisions have no scale."""
        assert LossScale.first("fp16").after(overflowed=True) == LossScale(factor=2.0**15)
        assert not LossScale.first("bf16").is_needed
        assert LossScale.first("fp32").after(overflowed=False) == LossScale()

    def test_a_thousand_good_steps_double_it(self) -> None:
        """And the count begins again."""
        scale = LossScale.first("fp16")
        for _ in range(1000):
            assert scale.factor == 2.0**16
            scale = scale.after(overflowed=False)
        assert scale == LossScale(factor=2.0**17)

    def test_a_run_survives_overflows(self, make_job: MakeJob) -> None:
        """With a scale far too large the first steps are passed over, and it still learns."""
        result = train_file(job := make_job("llama", precision="fp16", epochs=3))
        newest = CheckpointStore(job.checkpoints).latest_verified()
        assert newest is not None
        factor, good_steps = newest.facts.loss_scale
        assert 0 < good_steps <= result.total_steps
        assert factor <= 2.0**16


class TestMemory:
    def test_too_little_memory_halves_the_micro_batch(
        self, make_job: MakeJob, little_memory: Callable[[int], None]
    ) -> None:
        """What is written before the error is what the next attempt reads; stopped or not, the bits are the same."""
        jobs = make_job("llama", layout="buckets"), make_job("llama", "other", layout="buckets")
        for lines in (2, 1):
            little_memory(lines)
            for job in jobs:
                with pytest.raises(OutOfMemory, match=rf"a micro-batch has {lines} rows\. Call again, in a fresh"):
                    train_here(job, report=lambda _: None, should_stop=lambda: False)
                assert manifest_of(job).micro_batch_sizes == ((0, lines),)
        result = train_file(jobs[0])
        assert (result.finished, result.micro_batch_size) == (True, 1)
        train_with_stops(jobs[1])
        assert model_hash(jobs[1].current_model) == model_hash(jobs[0].current_model)

    def test_it_holds_from_the_step_that_failed(self) -> None:
        """Steps that are made again after a damage are made as they were the first time."""
        manifest = RunManifest(
            plan_hash="", layout="buckets", layout_why="", precision="fp32", micro_batch_sizes=((0, 8),)
        )
        manifest = manifest.halved(5).halved(9)
        sizes = [manifest.micro_batch_size_of_step(step) for step in (0, 4, 5, 8, 9, 100)]
        assert sizes == [8, 8, 4, 4, 2, 2]
        assert manifest.halved(9).micro_batch_sizes == ((0, 8), (5, 4), (9, 1))

    def test_a_fresh_process_goes_on(self, make_job: MakeJob, little_memory: Callable[[int], None]) -> None:
        """The caller sees nothing of it but progress, and the result."""
        little_memory(2)  # in this process only
        job = make_job("llama", layout="buckets")
        reports: list[Progress] = []
        result = train_file(job, report=reports.append)
        assert (result.finished, result.micro_batch_size) == (True, 2)
        assert reports[-1].phase == "publishing"
        assert [report.phase for report in reports if not report.share].count("evaluating after") == 1

    def test_one_row_that_does_not_fit_is_an_error(
        self, make_job: MakeJob, little_memory: Callable[[int], None]
    ) -> None:
        """It says what to do; halving has an end."""
        little_memory(0)
        with pytest.raises(NotEnoughMemory, match=r"with one row at a time\. Set gradient_checkpointing"):
            train_file(make_job("llama", layout="alone"))


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets no more than so many lines fit into the memory of this process when a Llama is trained."""
    import torch
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def set_lines(lines: int) -> None:
        @functools.wraps(forward)
        def forward_with_little_memory(self: Any, **options: Any) -> Any:
            if self.training and len(options["input_ids"]) > lines:
                raise torch.OutOfMemoryError("no more")
            return forward(self, **options)

        monkeypatch.setattr(LlamaForCausalLM, "forward", forward_with_little_memory)

    return set_lines


class TestManifest:
    def test_a_damaged_one_has_a_copy(self, make_job: MakeJob) -> None:
        """Each byte of either file may be wrong; both wrong is an error that says what to do."""
        train_file(job := make_job("llama"))
        plan, expected = Plan.load(job.work / "plan"), manifest_of(job)
        path, copy = job.work / "plan.manifest.json", job.work / "plan.manifest.copy"
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert RunManifest.load(plan) == expected
        copy.write_bytes(whole[:-9])
        with pytest.raises(DamagedManifest, match="and its copy are damaged"):
            RunManifest.load(plan)

    def test_one_of_another_plan_counts_as_none(self, make_job: MakeJob) -> None:
        """Who removes a plan to train the file anew is not held up by what lay beside it."""
        train_file(job := make_job("llama"))
        stranger = replace(manifest_of(job), plan_hash="another")
        plan = Plan.load(job.work / "plan")
        stranger.save(plan)
        assert RunManifest.load(plan) is None


class TestTemplates:
    def test_without_a_template_a_question_is_read_as_it_stands(self, model_of: Callable[[str], Path]) -> None:
        """A base model learns instructions; the question at an examination has the same tokens."""
        tokenizer = load_model(model_of("llama"))[1]
        tokenizer.chat_template = None
        row = parse_row('{"prompt": "how many?", "completion": "two"}')
        encoded = encode_row(row, tokenizer, 100)
        assert tokenizer.decode(encoded.ids) == "how many?\ntwo<|end|>"
        assert sum(encoded.trained) == len("two") + 1
        asked = encode_question(row.question, tokenizer, 100)
        assert encoded.ids[: len(asked)] == asked

    def test_a_conversation_needs_a_template(self, model_of: Callable[[str], Path]) -> None:
        """How several turns are written, nobody can guess."""
        tokenizer = load_model(model_of("llama"))[1]
        tokenizer.chat_template = None
        turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
        row = parse_row(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}))
        with pytest.raises(BadRow, match="needs a chat template"):
            encode_row(row, tokenizer, 100)

    def test_a_template_that_rewrites_the_past_trains_the_last_answer(self, model_of: Callable[[str], Path]) -> None:
        """Some templates drop the thoughts of earlier answers: those are read, and not learnt."""
        tokenizer = load_model(model_of("llama"))[1]
        tokenizer.chat_template = (
            "{% for message in messages %}{{ message.role[0] }}:"
            "{{ message.content if loop.last or message.role == 'user' else 'short' }};{% endfor %}"
            "{% if add_generation_prompt %}a:{% endif %}"
        )
        turns = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
        row = parse_row(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}))
        encoded = encode_row(row, tokenizer, 100)
        learnt = [token for token, is_trained in zip(encoded.ids, encoded.trained, strict=True) if is_trained]
        assert tokenizer.decode(encoded.ids) == "u:one;a:short;u:three;a:four;"
        assert tokenizer.decode(learnt) == "four;"


def manifest_of(job: TrainingJob) -> RunManifest:
    found = RunManifest.load(Plan.load(job.work / "plan"))
    assert found is not None
    return found
