"""The store of checkpoints, without any model: what is visible, what is trusted, what is removed."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from thirdshift.apps.training.saving.checkpoints import (
    Checkpoint,
    CheckpointFacts,
    CheckpointGone,
    CheckpointStore,
    SetAside,
)

FACTS = CheckpointFacts(
    plan_hash="one plan", base_hash="base", data_name="train.jsonl", step=1, total_steps=9, numerics={"threads": "2"}
)


@pytest.fixture
def damaged() -> list[SetAside]:
    """What the store reported as set aside."""
    return []


@pytest.fixture
def store(tmp_path: Path, damaged: list[SetAside]) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", on_damaged=damaged.append)


def save(store: CheckpointStore, step: int, plan_hash: str = "one plan") -> Checkpoint:
    facts = replace(FACTS, step=step, plan_hash=plan_hash)
    return store.save(lambda folder: _write(folder, step), facts)


def _write(folder: Path, step: int) -> None:
    (folder / "model.safetensors").write_bytes(bytes([step]) * 1000)


def flip_a_byte(checkpoint: Checkpoint) -> None:
    path = checkpoint.path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


def truncate(checkpoint: Checkpoint) -> None:
    os.truncate(checkpoint.path / "model.safetensors", 999)


def lose_the_manifest(checkpoint: Checkpoint) -> None:
    (checkpoint.path / "manifest.json").unlink()


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


class TestSaving:
    def test_facts_come_back_as_they_were(self, store: CheckpointStore) -> None:
        """What was saved is what is listed."""
        saved = save(store, 3)
        assert store.list() == [saved]
        assert store.list()[0].facts == replace(FACTS, step=3)

    def test_numbers_rise_and_are_never_used_twice(self, store: CheckpointStore) -> None:
        """A damaged checkpoint keeps its number for itself."""
        first, second = save(store, 1), save(store, 2)
        flip_a_byte(second)
        assert store.latest_verified() == first
        assert names([first.path, second.path, save(store, 3).path]) == ["ckpt-000001", "ckpt-000002", "ckpt-000003"]

    def test_order_is_by_number_and_not_by_age(self, store: CheckpointStore) -> None:
        """Touched files change nothing."""
        first, second = save(store, 1), save(store, 2)
        os.utime(first.path)
        os.utime(second.path, (0, 0))
        assert store.latest_verified() == second

    def test_a_failed_save_leaves_nothing_to_see(self, store: CheckpointStore) -> None:
        """An exception while writing leaves the store as it was."""

        def fail(folder: Path) -> None:
            (folder / "model.safetensors").write_bytes(b"half")
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space"):
            store.save(fail, FACTS)
        assert store.list() == []

    def test_what_a_killed_writer_left_is_swept(self, store: CheckpointStore) -> None:
        """Half-written and half-deleted checkpoints go at the next start; whole ones stay."""
        saved = save(store, 1)
        for name in ("ckpt-000002.tmp-77", ".trash-ckpt-000000"):
            (store.directory / name).mkdir()
        assert sorted(names(store.sweep())) == [".trash-ckpt-000000", "ckpt-000002.tmp-77"]
        assert store.list() == [saved]


class TestTrust:
    @pytest.mark.parametrize("damage", [flip_a_byte, truncate, lose_the_manifest])
    def test_a_damaged_checkpoint_is_set_aside_and_named(
        self, store: CheckpointStore, damaged: list[SetAside], damage: object
    ) -> None:
        """The one before it is used; the damaged one is kept with its reason."""
        first, second = save(store, 1), save(store, 2)
        damage(second)  # type: ignore[operator]
        assert store.latest_verified() == first
        assert [aside.path for aside in damaged] == [store.directory / "damaged" / "ckpt-000002"]
        assert (store.directory / "damaged" / "ckpt-000002.reason.txt").read_text().strip() == damaged[0].problems[0]
        assert not second.path.exists()

    def test_only_the_asked_plan_counts(self, store: CheckpointStore) -> None:
        """A newer checkpoint of another file is not taken for this one."""
        mine, _ = save(store, 1), save(store, 2, plan_hash="another plan")
        assert store.latest_verified("one plan") == mine
        assert store.latest_verified("a third plan") is None

    def test_an_empty_store_has_none(self, store: CheckpointStore) -> None:
        """No checkpoint is an answer, not an error."""
        assert store.latest_verified() is None


class TestPruning:
    def test_the_newest_stay(self, store: CheckpointStore) -> None:
        """The rest is removed from disk."""
        for step in range(1, 5):
            save(store, step)
        assert names(store.prune(keep_last=2)) == ["ckpt-000001", "ckpt-000002"]
        assert names([one.path for one in store.list()]) == ["ckpt-000003", "ckpt-000004"]
        assert sorted(path.name for path in store.directory.iterdir()) == [
            ".locks",
            "ckpt-000003",
            "ckpt-000004",
            "damaged",
        ]

    def test_nothing_goes_without_a_newer_one_that_verifies(self, store: CheckpointStore) -> None:
        """When the newer ones turn out damaged, the last sound one stays, whatever the count says."""
        checkpoints = [save(store, step) for step in range(1, 5)]
        for newer in checkpoints[1:]:
            flip_a_byte(newer)
        assert store.prune(keep_last=1) == []
        assert store.list() == checkpoints[:1]

    def test_keeping_none_keeps_one(self, store: CheckpointStore) -> None:
        """The newest is never removed."""
        save(store, 1), save(store, 2)
        store.prune(keep_last=0)
        assert names([one.path for one in store.list()]) == ["ckpt-000002"]

    def test_the_best_one_stays(self, store: CheckpointStore) -> None:
        """The one with the lowest loss of the newest one's plan, however old it is."""
        for step, loss in enumerate((3.0, 1.0, 2.0, 2.0, 2.0), start=1):
            store.save(lambda folder: _write(folder, 1), replace(FACTS, step=step, last_losses=(loss,)))
        assert names(store.prune(keep_last=2)) == ["ckpt-000001", "ckpt-000003"]
        assert names([one.path for one in store.list()]) == ["ckpt-000002", "ckpt-000004", "ckpt-000005"]

    def test_a_pinned_one_stays(self, store: CheckpointStore) -> None:
        """Checkpoints named by the caller are passed over."""
        for step in range(1, 4):
            save(store, step)
        assert names(store.prune(keep_last=1, keep={"ckpt-000001"})) == ["ckpt-000002"]

    def test_one_in_use_by_another_process_stays(self, store: CheckpointStore) -> None:
        """A reader holds it; once the reader is killed the kernel lets go and it can be removed."""
        first, _ = save(store, 1), save(store, 2)
        script = """
import sys
from pathlib import Path
from thirdshift.apps.training.saving.checkpoints import CheckpointStore
path = Path(sys.argv[1])
with CheckpointStore(path.parent).in_use(path):
    print("held", flush=True)
    sys.stdin.read()
"""
        with subprocess.Popen(
            [sys.executable, "-c", script, str(first.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "held\n"
            assert store.prune(keep_last=1) == []
            reader.kill()
        assert store.prune(keep_last=1) == [first.path]

    def test_one_that_is_gone_cannot_be_used(self, store: CheckpointStore) -> None:
        """A reader that comes too late is told so."""
        first, _ = save(store, 1), save(store, 2)
        store.prune(keep_last=1)
        with pytest.raises(CheckpointGone), store.in_use(first.path):
            pass


def test_any_flipped_bit_and_any_truncation_falls_back_to_the_last_good_one(
    store: CheckpointStore, damaged: list[SetAside], damage_everywhere: Callable[..., None]
) -> None:
    """Anywhere in any stored file: it is found, named, set aside, and the checkpoint before it is taken."""
    random = Random(1)

    def fill(folder: Path) -> None:
        for name, size in {"model.safetensors": 40_000, "optimizer.safetensors": 80_000, "ledger.bin": 400}.items():
            (folder / name).write_bytes(random.randbytes(size))
        (folder / "config.json").write_text("{}")

    store.save(fill, FACTS)
    store.save(fill, replace(FACTS, step=2))
    damage_everywhere(store, "one plan", damaged)
