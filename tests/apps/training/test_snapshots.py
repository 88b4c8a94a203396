"""A snapshot is a verified copy of a checkpoint, or it is not there."""

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from thirdshift.apps.training.saving.checkpoints import CheckpointFacts, CheckpointGone, CheckpointStore
from thirdshift.apps.training.saving.snapshots import NoCheckpoint, SnapshotNotFound, SnapshotService
from thirdshift.core.errors import DamagedDirectory, UnsafePath
from thirdshift.storage.verified import verify

FACTS = CheckpointFacts(plan_hash="p", base_hash="b", data_name="data.jsonl", step=1, total_steps=2, numerics={})

PRUNER = """
import sys
from pathlib import Path
from thirdshift.apps.training.saving.checkpoints import CheckpointStore
print([path.name for path in CheckpointStore(Path(sys.argv[1])).prune(keep_last=1)])
"""


class Clock:
    """Unix seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Two checkpoints, ckpt-000001 and ckpt-000002."""
    store = CheckpointStore(tmp_path / "checkpoints")
    for number in (1, 2):
        save(store, f"weights {number}")
    return store


@pytest.fixture
def service(store: CheckpointStore, tmp_path: Path, clock: Clock) -> SnapshotService:
    return SnapshotService(store.directory, tmp_path / "backups" / "snapshots", clock=clock)


def save(store: CheckpointStore, weights: str) -> None:
    def fill(folder: Path) -> None:
        (folder / "model.safetensors").write_text(weights)
        (folder / "optimizer").mkdir()
        (folder / "optimizer" / "state.bin").write_bytes(b"x" * 1000)

    store.save(fill, FACTS)


def stamp(seconds: float) -> str:
    return time.strftime("%Y%m%d_%H%M%S", time.localtime(seconds))


def test_a_snapshot_is_a_verified_copy_under_a_name_for_people(service: SnapshotService) -> None:
    """The newest checkpoint unless another is named; checkpoint and local time make the name."""
    path = service.create_snapshot()
    assert path == service.snapshots_dir / f"ckpt-000002_{stamp(1_800_000_000)}"
    assert (path / "model.safetensors").read_text() == "weights 2"
    assert verify(path).facts["checkpoint"] == "ckpt-000002"
    assert service.create_snapshot("ckpt-000001").name.startswith("ckpt-000001_")


def test_a_second_one_in_the_same_second_gets_a_number(service: SnapshotService) -> None:
    """Nothing is overwritten."""
    names = [service.create_snapshot().name for _ in range(3)]
    assert names == [f"ckpt-000002_{stamp(1_800_000_000)}{end}" for end in ("", "-1", "-2")]


def test_snapshots_are_listed_newest_first(service: SnapshotService, clock: Clock) -> None:
    """With checkpoint, time and size; what crashed copies and people left between them is not listed."""
    assert service.list_snapshots() == []
    older = service.create_snapshot("ckpt-000002")
    clock.seconds += 3600
    newer = service.create_snapshot("ckpt-000001")
    (service.snapshots_dir / "ckpt-000009_20260101_000000.tmp-77").mkdir()
    (service.snapshots_dir / "ckpt-000009_20260101_000000").mkdir()
    (service.snapshots_dir / "notes.txt").touch()
    listed = service.list_snapshots()
    assert [one.path for one in listed] == [newer, older]
    assert listed[0].checkpoint == "ckpt-000001"
    assert listed[0].taken_at == datetime.fromtimestamp(clock.seconds, UTC)
    assert listed[0].size_bytes == len("weights 1") + 1000
    assert service.verify(newer.name) == listed[0]


def test_a_damaged_checkpoint_gives_no_snapshot(service: SnapshotService, store: CheckpointStore) -> None:
    """The error names the file, and no copy is left."""
    (store.directory / "ckpt-000002" / "model.safetensors").write_text("weights 3")
    with pytest.raises(DamagedDirectory, match=r"model\.safetensors has other bytes"):
        service.create_snapshot()
    assert list(service.snapshots_dir.iterdir()) == []


def test_a_snapshot_that_rots_is_noticed(service: SnapshotService, tmp_path: Path) -> None:
    """By verify and by restore, which then leaves nothing."""
    path = service.create_snapshot()
    (path / "optimizer" / "state.bin").write_bytes(b"y" * 1000)
    with pytest.raises(DamagedDirectory, match=r"state\.bin"):
        service.verify(path.name)
    with pytest.raises(DamagedDirectory, match=r"state\.bin"):
        service.restore(path.name, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_snapshot_is_restored_to_a_new_or_empty_folder(service: SnapshotService, tmp_path: Path) -> None:
    """Verified again, and never onto something."""
    name = service.create_snapshot().name
    empty = tmp_path / "empty"
    empty.mkdir()
    for target in (tmp_path / "not" / "made" / "yet", empty):
        assert service.restore(name, target) == target
        assert verify(target).facts["restored_from"] == name
        assert (target / "model.safetensors").read_text() == "weights 2"
    with pytest.raises(FileExistsError):
        service.restore(name, empty)


def test_unknown_names_are_errors_that_say_so(service: SnapshotService, tmp_path: Path) -> None:
    """Also names that lead elsewhere, and a store without a checkpoint."""
    with pytest.raises(CheckpointGone):
        service.create_snapshot("ckpt-000099")
    for name in ("", "..", "../checkpoints", "/etc"):
        with pytest.raises(UnsafePath):
            service.create_snapshot(name)
    for name in ("", "..", "../../checkpoints/ckpt-000001", "ckpt-000001_20260101_000000"):
        with pytest.raises(SnapshotNotFound):
            service.verify(name)
        with pytest.raises(SnapshotNotFound):
            service.restore(name, tmp_path / "restored")
    with pytest.raises(NoCheckpoint):
        SnapshotService(tmp_path / "none", tmp_path / "snapshots").create_snapshot()


def test_a_checkpoint_is_not_pruned_while_it_is_copied(store: CheckpointStore, tmp_path: Path, clock: Clock) -> None:
    """Another process that prunes at that moment leaves it; afterwards it may go."""
    pruned: list[str] = []

    def prune() -> str:
        return subprocess.check_output([sys.executable, "-c", PRUNER, str(store.directory)], text=True).strip()

    def clock_that_prunes() -> float:
        """Read by the service in the middle of a snapshot."""
        pruned.append(prune())
        return clock()

    SnapshotService(store.directory, tmp_path / "snapshots", clock=clock_that_prunes).create_snapshot("ckpt-000001")
    assert pruned == ["[]"]
    assert prune() == "['ckpt-000001']"


def test_sweeping_removes_what_a_crash_left(service: SnapshotService) -> None:
    """Half copies go, snapshots stay."""
    path = service.create_snapshot()
    left = service.snapshots_dir / f"{path.name}-1.tmp-77"
    left.mkdir()
    assert service.sweep() == [left]
    assert list(service.snapshots_dir.iterdir()) == [path]


def test_asked_twice_with_one_key_it_is_made_once(service: SnapshotService, clock: Clock) -> None:
    """For one who died before it could say what it had made; a copy that does not verify is made again."""
    made = service.create_snapshot(key="of a task")
    clock.seconds += 60
    assert service.create_snapshot(key="of a task") == made
    (made / "model.safetensors").write_text("weights 9")
    again = service.create_snapshot(key="of a task")
    assert [one.path for one in service.list_snapshots()] == [again]
    assert service.create_snapshot(key="of another") != again
