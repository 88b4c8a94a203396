"""Rows beside each other do not see each other; where a model would, it gets a slower layout and says why."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from thirdshift.apps.training.data.batches import pack_rows
from thirdshift.apps.training.models.loss import logits_of, summed_loss
from thirdshift.apps.training.models.model import load_model
from thirdshift.apps.training.plans.layout import LAYOUTS, micro_batches
from thirdshift.apps.training.plans.layout_check import TOLERANCE, check_layout
from thirdshift.apps.training.plans.plan import Plan
from thirdshift.apps.training.plans.planning import build_plan
from thirdshift.apps.training.settings import PlanSettings

LENGTHS = (3, 3, 4, 7, 7, 9, 12, 20, 20, 21)


class TestLines:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("size", [1, 3, 4, 100])
    def test_every_row_lies_in_one_line(self, layout: str, size: int) -> None:
        """No row is lost or doubled, no micro-batch has too many lines, none is longer than the longest row."""
        parts = lay(LENGTHS, layout, size)
        assert sorted(row for part in parts for line in part for row in line) == list(range(len(LENGTHS)))
        assert all(len(part) <= size for part in parts)
        assert max(sum(LENGTHS[row] for row in line) for part in parts for line in part) == 21

    def test_micro_batches_are_of_like_size(self) -> None:
        """Ten rows at most four at once are four, three and three: the fewest parts, and none almost empty."""
        assert sorted(len(part) for part in lay(LENGTHS, "buckets", 4)) == [3, 3, 4]

    def test_packed_lines_are_full(self) -> None:
        """106 tokens need six lines of 21, not ten."""
        assert [len(part) for part in lay(LENGTHS, "packed", 100)] == [6]

    def test_alone_is_one_row_at_a_time(self) -> None:
        """However many may go through at once."""
        assert lay(LENGTHS, "alone", 8) == [[[row]] for row in range(len(LENGTHS))]


class TestModels:
    @pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gemma2"])
    def test_packed_rows_are_read_as_each_alone(
        self, family: str, model_of: Callable[[str], Path], plan_for: Callable[[str], Plan]
    ) -> None:
        """Logits and gradients of a whole packed step are those of its rows one by one."""
        plan = plan_for(family)
        model = load_model(model_of(family))[0].eval()
        assert check_layout(model, plan, "packed").layout == "packed"
        rows = plan.rows_of_step(0)
        packed = micro_batches(rows, plan.length_of_row, "packed", 100)[0]
        assert len(packed) < len(rows)
        logits = logits_of(model, plan.batch(packed))
        for line, members in enumerate(packed):
            start = 0
            for row in members:
                alone = logits_of(model, plan.batch([[row]]))[0]
                torch.testing.assert_close(logits[line, start : start + len(alone)], alone, rtol=0, atol=TOLERANCE)
                start += len(alone)
        together = gradients(model, plan, [packed])
        one_by_one = gradients(model, plan, [[[row]] for row in rows])
        for found, expected in zip(together, one_by_one, strict=True):
            torch.testing.assert_close(
                found, expected, rtol=1e-5, atol=TOLERANCE * max(1.0, float(expected.abs().max()))
            )

    @pytest.mark.parametrize("family", ["bloom", "mamba"])
    def test_a_model_that_cannot_be_packed_gets_buckets(
        self, family: str, model_of: Callable[[str], Path], plan_for: Callable[[str], Plan]
    ) -> None:
        """A recurrent state and slopes by distance look into the row before: that is found out, and said."""
        found = check_layout(load_model(model_of(family))[0], plan_for(family), "packed")
        assert found.layout == "buckets"
        assert "does not read packed rows as it reads each alone: logits differ by" in found.why

    def test_the_wanted_layout_is_not_exceeded(
        self, model_of: Callable[[str], Path], plan_for: Callable[[str], Plan]
    ) -> None:
        """Who asks for buckets gets no packing, and a layout that every model bears needs no check."""
        model, plan = load_model(model_of("llama"))[0], plan_for("llama")
        assert [check_layout(model, plan, wanted).layout for wanted in LAYOUTS] == list(LAYOUTS)
        assert check_layout(model, plan, "packed").why == ""

    def test_the_check_leaves_no_trace(self, model_of: Callable[[str], Path], plan_for: Callable[[str], Plan]) -> None:
        """No gradient stays, the model trains on, and the weights are what they were."""
        model = load_model(model_of("gpt2"))[0].train()
        before = [parameter.clone() for parameter in model.parameters()]
        check_layout(model, plan_for("gpt2"), "packed")
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))

    def test_a_row_never_predicts_the_next_one(self) -> None:
        """The first token of a packed row has no label: what stands before it belongs to another row."""
        batch = pack_rows([[([5, 6, 7], [0, 1, 1]), ([8, 9], [0, 1])], [([1, 2], [0, 1])]], pad_id=0)
        assert batch.labels.tolist() == [[-100, 6, 7, -100, 9], [-100, 2, -100, -100, -100]]
        assert batch.position_ids is not None
        assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]


@pytest.fixture(scope="module")
def plan_for(
    model_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, write_rows: Callable[..., Path]
) -> Callable[[str], Plan]:
    folder = tmp_path_factory.mktemp("layout")
    data = write_rows(folder / "train.jsonl", 40)

    def make(family: str) -> Plan:
        base = model_of(family)
        plan = (
            build_plan(
                data, folder / family, base=base, tokenizer=load_model(base)[1], settings=PlanSettings(batch_size=12)
            )
            if not (folder / family).exists()
            else Plan.load(folder / family)
        )
        assert plan is not None
        return plan

    return make


def lay(lengths: Sequence[int], layout: str, size: int) -> list[list[list[int]]]:
    return micro_batches(range(len(lengths)), lengths.__getitem__, layout, size)


def gradients(model: torch.nn.Module, plan: Plan, parts: list[list[list[int]]]) -> list[torch.Tensor]:
    model.zero_grad()
    for part in parts:
        summed_loss(model, plan.batch(part)).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
