"""The trainer's side of saving: it asks for a checkpoint and goes on; a writer process makes it. No torch here.

At most one checkpoint is in flight. Its bytes stay staged until it is on disk, so the writer may die at any moment:
another one begins anew with the same bytes.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thirdshift.apps.training.saving import checkpoint_writer
from thirdshift.apps.training.saving.checkpoints import Checkpoint, CheckpointFacts, CheckpointStore, SetAside
from thirdshift.apps.training.saving.staging import StagingBuffer
from thirdshift.core.errors import ThirdshiftError

PATIENCE_S = 10.0
"""Seconds after which a writer at idle priority, which may get no processor at all, gives way to a normal one."""

_DEATHS_ALLOWED = 3

StagedFile = tuple[str, int, int]
"""Name, offset in the staged memory, size in bytes."""


class CheckpointNotSaved(ThirdshiftError):
    """The state at which training has to pause could not be saved; the checkpoint before it stands."""

    def __init__(self, directory: Path, why: str) -> None:
        super().__init__(
            f"no checkpoint could be saved in {directory}: {why}. The one before it stands; make room and call again."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    files: Sequence[StagedFile]
    facts: CheckpointFacts
    asked_at: float
    deaths: int = 0


class CheckpointSaver:
    """Saves what is staged in *buffer* to *store*. For one thread; *clock* counts seconds and never steps.

    Old checkpoints go, but for the newest *keep_last* and those named in *keep*.

    :attr:`trouble` says why the newest attempt failed, and is empty after one that did not.
    """

    def __init__(
        self,
        store: CheckpointStore,
        buffer: StagingBuffer,
        *,
        keep_last: int,
        keep: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trouble = ""
        self._store = store
        self._buffer = buffer
        self._keep_last = keep_last
        self._keep = keep
        self._clock = clock
        self._writer: subprocess.Popen[bytes] | None = None
        self._priority = checkpoint_writer.IDLE
        self._order: _Order | None = None
        self._answer = b""

    @property
    def is_busy(self) -> bool:
        """True while a checkpoint is in flight: the staged bytes must not change then."""
        return self._order is not None

    def save(self, files: Sequence[StagedFile], facts: CheckpointFacts) -> None:
        """Ask for a checkpoint of the staged *files* and return at once."""
        assert self._order is None, "the staged bytes of another checkpoint are still being written"
        self._order = _Order(files=files, facts=facts, asked_at=self._clock())
        self._send()

    def poll(self) -> Checkpoint | None:
        """Return the checkpoint in flight once it is durable, else None. Never waits."""
        if self._order is None:
            return None
        if self._clock() - self._order.asked_at > PATIENCE_S and self._priority == checkpoint_writer.IDLE:
            self.hurry()
        return self._look(0.0)

    def wait(self) -> Checkpoint | None:
        """Wait until nothing is in flight, at normal priority; returns the checkpoint that came of it, if any."""
        self.hurry()
        while self._order is not None:
            if found := self._look(None):
                return found
        return None

    def hurry(self) -> None:
        """From now on a writer of normal priority works: a fresh one takes over what is staged.

        The old one cannot be sped up: a process without privileges that has lowered its priority may not raise it.
        """
        if self._priority == checkpoint_writer.NORMAL:
            return
        self._priority = checkpoint_writer.NORMAL
        self._end_writer()
        if self._order is not None:
            self._send(is_taken_over=True)

    def close(self) -> None:
        """End the writer. What is in flight is dropped; call :meth:`wait` before."""
        self._end_writer()
        self._order = None

    def _send(self, *, is_taken_over: bool = False) -> None:
        """Give the writer its order; *is_taken_over*: another one had it, and may have carried it out."""
        assert self._order is not None
        order = {
            "files": self._order.files,
            "facts": asdict(self._order.facts),
            "keep_last": self._keep_last,
            "keep": self._keep,
            "is_taken_over": is_taken_over,
        }
        writer = self._writer or self._start_writer()
        assert writer.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead; the next look at its answers finds that out
            writer.stdin.write(json.dumps(order).encode() + b"\n")
            writer.stdin.flush()

    def _look(self, timeout_s: float | None) -> Checkpoint | None:
        assert self._writer is not None
        assert self._writer.stdout is not None
        descriptor = self._writer.stdout.fileno()
        if not select.select([descriptor], [], [], timeout_s)[0]:
            return None
        found = os.read(descriptor, 1 << 16)
        self._answer += found
        if not found:
            self._writer_died()
            return None
        if not self._answer.endswith(b"\n"):
            return None
        answer, self._answer = json.loads(self._answer), b""
        return self._done(answer)

    def _done(self, answer: dict[str, Any]) -> Checkpoint | None:
        order, self._order = self._order, None
        assert order is not None
        for each in answer["set_aside"]:
            self._store.announce(SetAside(path=Path(each["path"]), problems=tuple(each["problems"])))
        self.trouble = answer.get("failed", "")
        if "saved" not in answer:
            return None
        path = self._store.directory / answer["name"]
        return Checkpoint(path=path, sequence=answer["saved"], facts=order.facts)

    def _writer_died(self) -> None:
        """Begin the checkpoint in flight anew with another writer, unless they die of it one after the other."""
        assert self._order is not None
        self._end_writer()
        order = self._order
        deaths = order.deaths + 1
        if deaths >= _DEATHS_ALLOWED:
            self._order = None
            self.trouble = f"the process that writes checkpoints died {deaths} times in a row"
            return
        self._order = _Order(files=order.files, facts=order.facts, asked_at=order.asked_at, deaths=deaths)
        self._send(is_taken_over=True)

    def _start_writer(self) -> subprocess.Popen[bytes]:
        arguments = [str(os.getpid()), str(self._store.directory), str(self._buffer.descriptor), self._priority]
        self._writer = subprocess.Popen(
            # -P: the folder it runs in is no library
            [sys.executable, "-P", "-m", checkpoint_writer.__name__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._buffer.descriptor],
        )
        return self._writer

    def _end_writer(self) -> None:
        writer, self._writer, self._answer = self._writer, None, b""
        if writer is None:
            return
        writer.kill()
        assert writer.stdin is not None
        assert writer.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # what it did not read any more
            writer.stdin.close()
        writer.stdout.close()
        writer.wait()
