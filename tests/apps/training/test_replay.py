"""Rows of earlier files are mixed into a plan: which ones follows from the files alone, and none of them is asked."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thirdshift.apps.training.data.replay import KeptRows, Replay, ReplaySource, dealt
from thirdshift.apps.training.data.reservoir import LARGEST_ROW_BYTES, RESERVOIR_BYTES, Reservoir
from thirdshift.apps.training.data.row_files import digest_of, read_row_file, write_row_file
from thirdshift.apps.training.data.rows import Row, parse_row
from thirdshift.apps.training.models.model import load_model
from thirdshift.apps.training.plans.plan import FOR_REPLAY, Plan
from thirdshift.apps.training.plans.planning import build_plan
from thirdshift.apps.training.settings import PlanSettings
from thirdshift.storage.verified import hash_file

SETTINGS = PlanSettings(epochs=3, batch_size=8, micro_batch_size=4, replay_percent=10)


def row_of(number: int, kind: str = "old") -> Row:
    return parse_row(json.dumps({"prompt": f"{kind} {number}", "completion": str(number)}))


def kept(path: Path, rows: list[Row]) -> KeptRows:
    write_row_file(path, rows)
    return KeptRows(source=ReplaySource(file=f"{path.stem}.jsonl", blake3=hash_file(path)), path=path)


@pytest.fixture(scope="module")
def tokenizer(nano_model: Path) -> Any:
    return load_model(nano_model)[1]


@pytest.fixture
def plan_of(
    nano_model: Path, tokenizer: Any, tmp_path: Path, write_rows: Callable[..., Path]
) -> Callable[[Replay, str], Plan]:
    """Plans a file of 104 rows, of which 5 are held out, with a replay."""
    data = write_rows(tmp_path / "train.jsonl", 104)

    def build(replay: Replay, name: str) -> Plan:
        plan = build_plan(data, tmp_path / name, base=nano_model, tokenizer=tokenizer, settings=SETTINGS, replay=replay)
        assert plan is not None
        return plan

    return build


def prompts(plan: Plan, tokenizer: Any) -> list[str]:
    """The texts of the replayed rows, of all epochs."""
    numbers = range(plan.facts.rows, plan.row_count)
    return [tokenizer.decode(plan.tokens_of_row(number)[0]).split("<|end|>")[0] for number in numbers]


def test_every_row_of_the_file_is_trained_in_each_epoch_and_other_old_ones_beside_it(
    plan_of: Callable[..., Plan], tokenizer: Any, tmp_path: Path
) -> None:
    """Ten percent: 10 of 99 rows an epoch, evenly from both earlier files, each once in the whole training."""
    sources = tuple(kept(tmp_path / name, [row_of(n, name) for n in range(50)]) for name in ("birds", "trees"))
    plan = plan_of(Replay(kept=sources), "plan")
    assert (plan.facts.rows, plan.facts.replay_rows, plan.facts.steps_per_epoch) == (99, 10, 14)
    times = Counter(row for step in range(plan.total_steps) for row in plan.rows_of_step(step))
    assert times == {row: 3 if row < 99 else 1 for row in range(plan.row_count)}
    said = prompts(plan, tokenizer)
    assert len(set(said)) == 30
    for epoch in range(3):
        assert sum("birds" in text for text in said[10 * epoch : 10 * epoch + 10]) == 5
    replayed = [
        [row for step in range(14 * epoch, 14 * epoch + 14) for row in plan.rows_of_step(step) if row >= 99]
        for epoch in range(3)
    ]
    assert [sorted(rows) for rows in replayed] == [list(range(99 + 10 * epoch, 109 + 10 * epoch)) for epoch in range(3)]


def test_the_same_sources_give_the_same_plan_wherever_they_lie(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    """A plan names its sources by file and hash; loaded again it says the same."""
    rows = [row_of(n) for n in range(50)]
    (tmp_path / "elsewhere").mkdir()
    one = plan_of(Replay(kept=(kept(tmp_path / "old", rows),)), "one")
    other = plan_of(Replay(kept=(kept(tmp_path / "elsewhere" / "old", rows),)), "other")
    without = plan_of(Replay(), "without")
    assert one.hash == other.hash != without.hash
    assert Plan.load(one.directory).facts == one.facts
    assert [source.file for source in one.facts.replay] == ["old.jsonl"]
    assert (without.facts.replay_rows, without.row_count) == (0, 99)


def test_what_is_missing_or_changed_is_named_and_left_out(
    plan_of: Callable[..., Plan], tokenizer: Any, tmp_path: Path
) -> None:
    """The others are replayed in its stead."""
    sources = [kept(tmp_path / name, [row_of(n, name) for n in range(50)]) for name in ("birds", "trees", "fish")]
    (tmp_path / "birds").unlink()
    write_row_file(tmp_path / "trees", [row_of(1)])
    plan = plan_of(Replay(kept=tuple(sources)), "plan")
    assert sorted(plan.facts.replay_missing) == [
        "birds.jsonl: the rows that were kept of it are missing",
        "trees.jsonl: the rows that were kept of it are not as they were written",
    ]
    assert len(prompts(plan, tokenizer)) == 30
    assert all("fish" in text for text in prompts(plan, tokenizer))


def test_a_row_that_is_asked_is_never_replayed(plan_of: Callable[..., Plan], tokenizer: Any, tmp_path: Path) -> None:
    """Neither a held-out row of this file nor one of an earlier examination; few rows are replayed again and again."""
    own = plan_of(Replay(), "without").held_out()
    rows = [*own, *(row_of(n) for n in range(5))]
    asked = frozenset({digest_of(row_of(0)), digest_of(row_of(1))})
    plan = plan_of(Replay(kept=(kept(tmp_path / "old", rows),), examined=asked), "plan")
    assert Counter(prompts(plan, tokenizer)) == {f"<|user|>old {n}": 10 for n in (2, 3, 4)}


def test_a_file_keeps_rows_for_later_ones(plan_of: Callable[..., Plan]) -> None:
    """All of its rows here, each once, but never those of its examination."""
    plan = plan_of(Replay(), "plan")
    kept_rows = {digest_of(row) for row in read_row_file(plan.directory / FOR_REPLAY)}
    assert len(kept_rows) == 99
    assert not kept_rows & {digest_of(row) for row in plan.held_out()}


def test_no_order_and_no_duplicate_changes_what_is_kept() -> None:
    """The same fifty of a thousand rows, from the front and from the back."""
    one, other = Reservoir(50), Reservoir(50)
    rows = [row_of(n) for n in range(1000)]
    for row in rows:
        one.see(row)
    for row in reversed([*rows, *rows]):
        other.see(row)
    assert one.chosen(set()) == other.chosen(set())
    assert len(one.chosen(set())) == 50


def test_large_rows_do_not_fill_the_memory() -> None:
    """At most 16 MiB of text are kept, in whatever order; a row that is a large part of that is not."""
    texts = [f"{number} " + "x" * (LARGEST_ROW_BYTES - 100) for number in range(20)] + ["y" * (LARGEST_ROW_BYTES + 1)]
    rows = [Row(text=text) for text in texts]
    one, other = Reservoir(100), Reservoir(100)
    for row, back in zip(rows, reversed(rows), strict=True):
        one.see(row)
        other.see(back)
    assert one.chosen(set()) == other.chosen(set())
    assert 14 <= len(one.chosen(set())) == RESERVOIR_BYTES // (LARGEST_ROW_BYTES - 90)
    assert not any(row.text.startswith("y") for row in one.chosen(set()))


def test_sources_take_turns() -> None:
    """One that has few rows begins again."""
    assert list(dealt([10, 50], [4, 1], 9)) == [10, 50, 11, 50, 12, 50, 13, 50, 10]
