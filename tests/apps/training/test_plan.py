"""A plan fixes before the first step which rows are read when, and which of their tokens are learnt."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thirdshift.apps.training.data.encoding import encode_question, encode_row
from thirdshift.apps.training.data.rows import BadLine, BadRow, parse_row
from thirdshift.apps.training.models.model import load_model
from thirdshift.apps.training.plans.plan import Plan, shuffled
from thirdshift.apps.training.plans.planning import build_plan
from thirdshift.apps.training.settings import PlanSettings
from thirdshift.core.errors import DamagedDirectory

WriteRows = Callable[[Path, int], Path]
SETTINGS = PlanSettings(epochs=3, batch_size=8, micro_batch_size=3)


@pytest.fixture(scope="session")
def tokenizer(nano_model: Path) -> Any:
    return load_model(nano_model)[1]


@pytest.fixture
def plan_of(nano_model: Path, tokenizer: Any, tmp_path: Path) -> Callable[..., Plan]:
    """Builds a plan of a file for the nano model."""

    def build(data: Path, settings: PlanSettings = SETTINGS, name: str = "plan") -> Plan:
        plan = build_plan(data, tmp_path / name, base=nano_model, tokenizer=tokenizer, settings=settings)
        assert plan is not None
        return plan

    return build


class TestOrder:
    @pytest.mark.parametrize("count", [1, 7, 8, 50])
    def test_every_row_is_trained_once_an_epoch(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path, count: int
    ) -> None:
        """All steps of an epoch together hold each row exactly once, the last partial batch included."""
        plan = plan_of(write_rows(tmp_path / "train.jsonl", count))
        steps = plan.facts.steps_per_epoch
        for epoch in range(3):
            rows = [row for step in range(epoch * steps, (epoch + 1) * steps) for row in plan.rows_of_step(step)]
            assert sorted(rows) == list(range(plan.facts.rows))
        assert plan.total_steps == 3 * steps

    def test_a_step_is_the_same_in_any_order_of_asking(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path
    ) -> None:
        """The rows of a step follow from plan and step alone, also for a plan that was just loaded."""
        plan = plan_of(write_rows(tmp_path / "train.jsonl", 50))
        forwards = [plan.rows_of_step(step) for step in range(plan.total_steps)]
        again = Plan.load(plan.directory)
        backwards = [again.rows_of_step(step) for step in reversed(range(plan.total_steps))]
        assert forwards == backwards[::-1]

    def test_epochs_differ(self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path) -> None:
        """Each epoch has an order of its own."""
        plan = plan_of(write_rows(tmp_path / "train.jsonl", 50))
        assert plan.rows_of_step(0) != plan.rows_of_step(plan.facts.steps_per_epoch)

    def test_the_rows_of_a_step_are_sorted_by_length(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path
    ) -> None:
        """So rows of like length lie beside each other, and little is padded."""
        plan = plan_of(write_rows(tmp_path / "train.jsonl", 50))
        lengths = [plan.length_of_row(row) for row in plan.rows_of_step(0)]
        assert lengths == sorted(lengths)
        assert lengths == [len(plan.tokens_of_row(row)[0]) for row in plan.rows_of_step(0)]

    @pytest.mark.parametrize("count", [1, 2, 3, 100, 1000, 4097])
    def test_a_shuffle_needs_no_list(self, count: int) -> None:
        """Asked place by place or all at once, every number comes exactly once."""
        everything = shuffled(np.arange(count), count, "a key")
        assert sorted(everything) == list(range(count))
        assert [int(shuffled(np.array([place]), count, "a key")[0]) for place in range(min(count, 50))] == list(
            everything[:50]
        )

    def test_a_shuffle_looks_random(self) -> None:
        """Neighbours end far apart, another key gives another order, and each row is as likely in each step."""
        count = 3000
        one, other = (shuffled(np.arange(count), count, key) for key in ("one", "other"))
        assert np.abs(np.corrcoef(one, np.arange(count))[0, 1]) < 0.1
        assert (one == other).sum() < 20
        first = [int(shuffled(np.array([0]), 10, f"key {number}")[0]) for number in range(2000)]
        assert all(140 < amount < 260 for amount in Counter(first).values())
        assert len(Counter(first)) == 10

    def test_a_billion_rows_cost_nothing(self) -> None:
        """A step of a huge file is known at once, wherever it is."""
        rows = shuffled(np.arange(999_999_900, 10**9), 10**9, "a key")
        assert len(set(rows)) == 100
        assert 0 <= min(rows) < max(rows) < 10**9

    def test_the_learning_rate_rises_and_falls(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path
    ) -> None:
        """Warm-up, peak, and a decay that ends near zero."""
        plan = plan_of(write_rows(tmp_path / "train.jsonl", 200), PlanSettings(batch_size=4, warmup_steps=5))
        rates = [plan.learning_rate_of_step(step) for step in range(plan.total_steps)]
        assert rates[:6] == sorted(rates[:6])
        assert rates[5:] == sorted(rates[5:], reverse=True)
        assert rates[0] > 0
        assert max(rates) == rates[5] == plan.settings.learning_rate
        assert rates[-1] < 0.001 * plan.settings.learning_rate


class TestTokens:
    def test_the_loss_is_on_the_answer_and_its_end(self, tokenizer: Any) -> None:
        """Exactly the assistant's words and end-of-turn are learnt, in every turn."""
        turns = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
        row = parse_row(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}))
        encoded = encode_row(row, tokenizer, 512)
        learnt = [token for token, trained in zip(encoded.ids, encoded.trained, strict=True) if trained]
        assert tokenizer.decode(learnt) == "two<|end|>four<|end|>"
        whole = "<|user|>one<|end|><|assistant|>two<|end|><|user|>three<|end|><|assistant|>four<|end|>"
        assert tokenizer.decode(encoded.ids) == whole

    def test_a_question_is_trained_as_it_is_asked(self, tokenizer: Any) -> None:
        """The tokens before the answer are those of the same question at an examination."""
        row = parse_row('{"prompt": "how many?", "completion": "two"}')
        asked = encode_question(row.question, tokenizer, 512)
        assert encode_row(row, tokenizer, 512).ids[: len(asked)] == asked

    def test_text_is_learnt_whole(self, tokenizer: Any) -> None:
        """All of a plain text but its first token, which nothing precedes, and the end."""
        encoded = encode_row(parse_row('{"text": "abc"}'), tokenizer, 512)
        assert (tokenizer.decode(encoded.ids), encoded.trained) == ("abc<|end|>", [False, True, True, True])

    def test_a_long_question_loses_its_beginning(self, tokenizer: Any) -> None:
        """The answer stays whole and the context is full."""
        row = parse_row(json.dumps({"prompt": "x" * 100 + "end", "completion": "two"}))
        encoded = encode_row(row, tokenizer, 20)
        assert (len(encoded.ids), encoded.cut) == (20, 90)
        assert tokenizer.decode(encoded.ids) == "x" * 11 + "end<|end|><|assistant|>two<|end|>"

    def test_a_long_answer_is_refused(self, tokenizer: Any) -> None:
        """An answer that leaves no room for a question cannot be trained."""
        row = parse_row(json.dumps({"prompt": "x", "completion": "y" * 19}))
        with pytest.raises(BadRow, match="the answer alone has 20 tokens; the model's context has room for 19"):
            encode_row(row, tokenizer, 20)

    def test_a_batch_is_padded_on_the_right(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path
    ) -> None:
        """Padding has no attention and no label; labels are the tokens of the answers."""
        plan = plan_of(write_rows(tmp_path / "train.jsonl", 10))
        batch = plan.batch([[0], [1], [2]])
        assert batch.input_ids.shape == batch.labels.shape
        assert batch.attention_mask is not None
        is_learnt = batch.labels != -100
        assert (batch.labels[is_learnt] == batch.input_ids[is_learnt]).all()
        assert (batch.attention_mask[is_learnt] == 1).all()
        assert (batch.input_ids[batch.attention_mask == 0] == plan.facts.pad_id).all()
        assert (np.diff(batch.attention_mask, axis=1) <= 0).all()

    def test_answer_tokens_are_known_in_advance(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path
    ) -> None:
        """What a step's loss is divided by is the number of labels in its micro-batches."""
        plan = plan_of(write_rows(tmp_path / "train.jsonl", 50))
        for step in range(plan.total_steps):
            labels = plan.batch([[row] for row in plan.rows_of_step(step)]).labels
            assert plan.answer_tokens_of_step(step) == int((labels != -100).sum())
        assert sum(map(plan.answer_tokens_of_step, range(plan.total_steps))) == 3 * plan.facts.trained_tokens


class TestHoldOut:
    @pytest.mark.parametrize(("count", "held_out"), [(19, 1), (20, 1), (100, 5), (2000, 64)])
    def test_a_share_is_never_trained(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path, count: int, held_out: int
    ) -> None:
        """Five percent, at most 64 and at least one of twenty, are kept for the examination."""
        plan = plan_of(write_rows(tmp_path / "train.jsonl", count))
        assert (plan.facts.held_out_rows, plan.facts.rows) == (held_out, count - held_out)
        assert len(plan.held_out()) == held_out

    def test_a_duplicate_of_a_held_out_row_is_held_out(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path
    ) -> None:
        """A question of the examination is never seen in training, in whatever form it is repeated."""
        data = write_rows(tmp_path / "train.jsonl", 100)
        chats = [json.loads(line)["messages"] for line in data.read_text().splitlines()]
        with data.open("a") as file:
            for asked, said in chats:
                file.write(json.dumps({"prompt": asked["content"], "completion": said["content"]}) + "\n")
        plan = plan_of(data)
        assert plan.facts.rows == 2 * (100 - plan.facts.held_out_rows)
        trained = {tuple(plan.batch([[row]]).input_ids[0]) for row in range(plan.facts.rows)}
        kept = plan_of(data, PlanSettings(held_out_percent=0), name="all")
        everything = Counter(tuple(kept.batch([[row]]).input_ids[0]) for row in range(kept.facts.rows))
        assert set(everything.values()) == {2}
        assert len(everything) - len(trained) == plan.facts.held_out_rows == len(plan.held_out())

    def test_a_file_of_one_question_is_trained(self, plan_of: Callable[..., Plan], tmp_path: Path) -> None:
        """The hold-out never takes everything."""
        data = tmp_path / "train.jsonl"
        data.write_text('{"prompt": "a", "completion": "b"}\n' * 30)
        assert plan_of(data).facts.rows == 30

    def test_plain_text_is_all_trained(self, plan_of: Callable[..., Plan], tmp_path: Path) -> None:
        """A text asks nothing that could be examined."""
        data = tmp_path / "train.jsonl"
        data.write_text("".join(f'{{"text": "number {number}"}}\n' for number in range(50)))
        assert (plan_of(data).facts.rows, plan_of(data, name="b").facts.held_out_rows) == (50, 0)


class TestPlan:
    def test_the_same_sources_give_the_same_plan(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path
    ) -> None:
        """A plan that is lost can be built again, to the byte."""
        data = write_rows(tmp_path / "train.jsonl", 50)
        one, other = plan_of(data), plan_of(data, name="other")
        assert one.facts == other.facts == Plan.load(one.directory).facts
        for path in one.directory.iterdir():
            assert path.read_bytes() == (other.directory / path.name).read_bytes()

    def test_other_settings_or_rows_give_another_plan(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path
    ) -> None:
        """The hash names everything that decides a result."""
        data, more = write_rows(tmp_path / "train.jsonl", 50), write_rows(tmp_path / "more.jsonl", 51)
        plans = [
            plan_of(data),
            plan_of(data, PlanSettings(epochs=3, batch_size=8, micro_batch_size=4), name="b"),
            plan_of(more, name="c"),
        ]
        assert len({plan.hash for plan in plans}) == 3

    def test_a_bad_line_is_named(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path, nano_model: Path
    ) -> None:
        """A line that does not fit stops the plan, and no plan is left behind."""
        data = write_rows(tmp_path / "train.jsonl", 3)
        with data.open("a") as file:
            file.write(json.dumps({"prompt": "a", "completion": "b" * 600}) + "\n")
        with pytest.raises(BadLine, match=r"train\.jsonl:4: the answer alone has 601 tokens"):
            plan_of(data)
        assert not (tmp_path / "plan").exists()

    def test_a_stop_leaves_no_plan(
        self, nano_model: Path, tokenizer: Any, write_rows: WriteRows, tmp_path: Path
    ) -> None:
        """Planning asks for the stop at every row."""
        data = write_rows(tmp_path / "train.jsonl", 50)
        target = tmp_path / "plan"
        plan = build_plan(
            data, target, base=nano_model, tokenizer=tokenizer, settings=SETTINGS, should_stop=lambda: True
        )
        assert plan is None
        assert not target.exists()

    def test_long_planning_says_how_far_it_is(
        self, nano_model: Path, tokenizer: Any, write_rows: WriteRows, tmp_path: Path
    ) -> None:
        """By the bytes that were read, every thousand rows."""
        data, shares = write_rows(tmp_path / "train.jsonl", 3001), []
        build_plan(
            data, tmp_path / "plan", base=nano_model, tokenizer=tokenizer, settings=SETTINGS, on_share=shares.append
        )
        assert shares == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=0.05)

    def test_a_changed_byte_is_noticed(
        self, plan_of: Callable[..., Plan], write_rows: WriteRows, tmp_path: Path
    ) -> None:
        """A plan is verified before it is trusted."""
        plan = plan_of(write_rows(tmp_path / "train.jsonl", 50))
        path = plan.directory / "tokens.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(DamagedDirectory, match=r"tokens\.npy has other bytes"):
            Plan.load(plan.directory)
