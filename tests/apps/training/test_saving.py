"""Saving beside the training: what is staged, who writes it, and what happens when the writer or the disk fails."""

import contextlib
import errno
import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from thirdshift.apps.training.saving import checkpoint_writer
from thirdshift.apps.training.saving.checkpoint_saver import CheckpointSaver
from thirdshift.apps.training.saving.checkpoints import CheckpointFacts, CheckpointStore
from thirdshift.apps.training.saving.staging import NoRoom, StagingBuffer, demand_disk
from thirdshift.storage.verified import CHUNK_BYTES, verify

FACTS = CheckpointFacts(
    plan_hash="one plan", base_hash="base", data_name="train.jsonl", step=1, total_steps=9, numerics={"threads": "2"}
)
WEIGHTS = bytes(range(256)) * 20_000  # some five chunks
FILES = [("model.safetensors", 0, len(WEIGHTS)), ("ledger.bin", 0, 100), ("empty", 0, 0)]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.fixture
def buffer() -> Iterator[StagingBuffer]:
    with contextlib.closing(StagingBuffer(len(WEIGHTS))) as buffer:
        buffer.view[: len(WEIGHTS)] = WEIGHTS
        yield buffer


@pytest.fixture
def saver(store: CheckpointStore, buffer: StagingBuffer) -> Iterator[CheckpointSaver]:
    with contextlib.closing(CheckpointSaver(store, buffer, keep_last=2)) as saver:
        yield saver


def writer_of(saver: CheckpointSaver) -> int:
    assert saver._writer is not None
    return saver._writer.pid


def save_without_an_answer(saver: CheckpointSaver, store: CheckpointStore) -> None:
    """Save, and wait until the checkpoint lies there; whether its writer has said so is not looked at."""
    saver.save(FILES, FACTS)
    while not store.list():
        assert saver._writer is not None
        assert saver._writer.poll() is None, "the writer has ended without a checkpoint"


def finish(saver: CheckpointSaver) -> Any:
    """Look until nothing is in flight, as a trainer does between two steps."""
    while saver.is_busy:
        if found := saver.poll():
            return found
    return None


class TestWriter:
    def test_what_is_staged_becomes_a_checkpoint(self, saver: CheckpointSaver, store: CheckpointStore) -> None:
        """Whole, verified, with the hash of every MiB, and written at idle priority."""
        saver.save(FILES, FACTS)
        assert saver.is_busy
        saved = finish(saver)
        assert store.list() == [saved]
        assert (saved.path / "model.safetensors").read_bytes() == WEIGHTS
        entry = next(entry for entry in verify(saved.path).files if entry.path == "model.safetensors")
        assert len(entry.chunks) == -(-len(WEIGHTS) // CHUNK_BYTES)

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has idle scheduling")
    def test_it_works_only_while_nobody_else_wants_to(self, saver: CheckpointSaver) -> None:
        """Until somebody waits for it: then a fresh one of normal priority takes over what is staged."""
        saver._start_writer()
        saver.save(FILES, FACTS)
        os.kill(writer_of(saver), signal.SIGSTOP)  # as if it got no processor
        first = writer_of(saver)
        saved = saver.wait()
        assert saved is not None
        assert writer_of(saver) != first
        assert os.sched_getscheduler(writer_of(saver)) == os.SCHED_OTHER
        verify(saved.path)

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has idle scheduling")
    def test_after_a_save_it_is_idle(self, saver: CheckpointSaver) -> None:
        """The kernel says so."""
        saver.save(FILES, FACTS)
        while saver.is_busy and os.sched_getscheduler(writer_of(saver)) != os.SCHED_IDLE:
            saver.poll()
        assert os.sched_getscheduler(writer_of(saver)) == os.SCHED_IDLE

    def test_killed_it_is_replaced_and_the_checkpoint_comes_all_the_same(
        self, saver: CheckpointSaver, store: CheckpointStore
    ) -> None:
        """The bytes are still staged; of the first writer no trace is left."""
        saver.save(FILES, FACTS)
        os.kill(writer_of(saver), signal.SIGKILL)
        assert saver.wait() is not None
        assert [path.name for path in store.directory.glob("ckpt-*")] == ["ckpt-000001"]

    def test_killed_before_it_could_answer_its_checkpoint_is_not_made_twice(
        self, saver: CheckpointSaver, store: CheckpointStore
    ) -> None:
        """The next writer finds it, reads every byte of it, and answers in its place."""
        save_without_an_answer(saver, store)
        os.kill(writer_of(saver), signal.SIGKILL)
        saved = saver.wait()
        assert saved is not None
        assert store.list() == [saved]

    def test_one_that_was_damaged_before_its_writer_could_answer_is_made_again(
        self, saver: CheckpointSaver, store: CheckpointStore
    ) -> None:
        """What does not verify is set aside, and its number is not used twice."""
        save_without_an_answer(saver, store)
        saver._end_writer()  # its answer, if there was one, goes with it
        with (store.directory / "ckpt-000001" / "model.safetensors").open("r+b") as weights:
            weights.write(b"\xff")
        saver._send(is_taken_over=True)
        saved = saver.wait()
        assert [saved] == store.list()
        assert saved is not None
        assert saved.sequence == 2
        assert [each.path.name for each in store.damaged()] == ["ckpt-000001"]

    def test_a_writer_that_always_dies_is_given_up(self, saver: CheckpointSaver) -> None:
        """After three deaths the trainer goes on without, and says why."""
        saver.save(FILES, FACTS)
        while saver.is_busy:
            os.kill(writer_of(saver), signal.SIGKILL)
            saver.poll()
        assert saver.trouble == "the process that writes checkpoints died 3 times in a row"

    def test_a_stop_sent_to_the_whole_group_does_not_reach_it(self, saver: CheckpointSaver) -> None:
        """SIGTERM and Ctrl-C are the trainer's affair, who then needs its writer."""
        saver.save(FILES, FACTS)
        assert finish(saver) is not None
        first = writer_of(saver)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(first, number)
        saver.save(FILES, replace(FACTS, step=2))
        assert finish(saver) is not None
        assert writer_of(saver) == first

    def test_a_disk_that_refuses_is_told_and_tried_again(self, saver: CheckpointSaver, store: CheckpointStore) -> None:
        """The writer stays; the next checkpoint comes."""
        saver.save(FILES, FACTS)
        first = finish(saver)
        pid = writer_of(saver)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (CHUNK_BYTES, resource.RLIM_INFINITY))
        saver.save(FILES, replace(FACTS, step=2))
        assert finish(saver) is None
        assert "too large" in saver.trouble
        assert store.latest_verified() == first
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        saver.save(FILES, replace(FACTS, step=3))
        assert finish(saver) == store.latest_verified()
        assert saver.trouble == ""

    def test_it_loads_nothing_heavy(self) -> None:
        """Neither torch nor numpy."""
        code = (
            f"import {checkpoint_writer.__name__}, sys; print({{'torch', 'numpy', 'transformers'}} & set(sys.modules))"
        )
        assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


class TestRoom:
    def test_too_little_memory_is_said_before_anything_is_taken(self) -> None:
        """With the figures, and what to do."""
        with pytest.raises(NoRoom, match=r"needs 1,000,000,000,000 MB of memory .* are available\. End other programs"):
            StagingBuffer(10**18)

    def test_too_little_disk_is_said_before_anything_is_written(self, tmp_path: Path) -> None:
        """With the figures, and what to do."""
        with pytest.raises(NoRoom, match=r"needs 1,000,000,000,000 MB in .* are free\. Make room there"):
            demand_disk(tmp_path, 10**18)


class Faults:
    """Fails the nth of all calls that change the disk, as the system would."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.deadly = 0
        self.error = errno.ENOSPC
        for name in ("write", "fsync", "posix_fallocate", "rename", "replace", "mkdir"):
            patch.setattr(os, name, self._failing(name, getattr(os, name)))
        really_open, faults = open, self

        class File(io.FileIO):
            def write(self, content: Any) -> int:
                faults.count("write of a file object")
                return super().write(content)

        def open_(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            return io.BufferedWriter(File(file, mode)) if mode == "wb" else really_open(file, mode, *rest, **named)

        patch.setattr("builtins.open", open_)

    def arm(self, deadly: int, error: int) -> None:
        self.calls.clear()
        self.deadly, self.error = deadly, error

    def count(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.deadly:
            raise OSError(self.error, os.strerror(self.error))

    def _failing(self, name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.count(name)
            return really(*arguments, **named)

        return call


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_failure_at_any_write_or_fsync_of_a_save_costs_that_checkpoint_only(
    store: CheckpointStore, buffer: StagingBuffer, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Each call that changes the disk fails in turn: the last good checkpoint loads, and the next save succeeds."""
    faults = Faults(monkeypatch)
    order = {"files": FILES, "facts": asdict(FACTS), "keep_last": 2, "keep": [], "is_taken_over": False}
    staged = memoryview(buffer.view)
    good = checkpoint_writer._save(store, staged, order)["saved"]
    deadly, failed = 1, set()
    while True:
        faults.arm(deadly, error)
        answer = checkpoint_writer._save(store, staged, order)
        calls = list(faults.calls)
        faults.arm(0, error)
        newest = store.latest_verified()
        assert newest is not None
        assert newest.sequence >= good
        assert not list(store.directory.glob("damaged/*"))
        good = newest.sequence
        if len(calls) < deadly:
            break
        assert os.strerror(error) in answer["failed"]
        failed.add(calls[-1])
        assert checkpoint_writer._save(store, staged, order)["saved"] == good + 1
        good += 1
        deadly += 1
    staged.release()
    assert failed >= {"write", "write of a file object", "fsync", "posix_fallocate", "rename", "replace", "mkdir"}
    assert deadly > 15


@pytest.mark.training
class TestImage:
    @pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "mamba"])
    def test_the_staged_weights_are_the_file_that_transformers_writes(
        self, model_of: Callable[[str], Path], family: str, tmp_path: Path
    ) -> None:
        """Byte for byte, tied weights too, and the optimizer's file is read back as it was."""
        import safetensors.torch
        import torch

        from thirdshift.apps.training.models.model import load_model
        from thirdshift.apps.training.saving.state import make_optimizer
        from thirdshift.apps.training.saving.state_image import StateImage
        from thirdshift.apps.training.settings import PlanSettings

        model, _ = load_model(model_of(family))
        optimizer = make_optimizer(model, PlanSettings())
        image = StateImage(model=model, optimizer=optimizer, tokenizer_files={}, rows=3, scratch=tmp_path / "scratch")
        assert image.is_direct
        assert not (tmp_path / "scratch").exists()
        model(input_ids=torch.arange(6)[None], labels=torch.arange(6)[None]).loss.backward()
        optimizer.step()
        files = {name: bytes(image.buffer.view[at : at + size]) for name, at, size in image.stage(b"123")}
        model.save_pretrained(tmp_path / "expected")
        for path in (tmp_path / "expected").iterdir():
            assert files[path.name] == path.read_bytes()
        assert files["ledger.bin"] == b"123"
        found = safetensors.torch.load(files["optimizer.safetensors"])
        for name, parameter in model.named_parameters():
            for moment, expected in optimizer.state.get(parameter, {}).items():
                assert torch.equal(found[f"{name}.{moment}"], expected)
        image.close()
