"""The process that writes checkpoints: it maps the staged memory and makes files of it. It never loads torch.

It is started by the trainer, speaks JSON, one line each way, and dies with it. At idle priority it costs the trainer
next to nothing; it starts at normal priority and lowers it then, for on a busy machine an idle process would not even
come to its first line. Whoever needs it faster ends it and starts another.
"""

import json
import mmap
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thirdshift.apps.training.saving.checkpoints import CheckpointFacts, CheckpointStore, SetAside
from thirdshift.apps.training.saving.staging import NoRoom, demand_disk
from thirdshift.host.processes import die_with_parent
from thirdshift.host.scheduling import idle_priority
from thirdshift.storage.verified import FileEntry, entry_of

IDLE = "idle"
NORMAL = "normal"


def write_files(folder: Path, staged: memoryview, files: list[list[Any]]) -> Iterator[FileEntry]:
    """Write each ``[name, offset, size_bytes]`` of *staged* to *folder*, durably; all space is taken first."""
    descriptors = []
    try:
        for name, _, size_bytes in files:
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            descriptors.append(descriptor)
            if size_bytes and sys.platform == "linux":
                os.posix_fallocate(descriptor, 0, size_bytes)
        for descriptor, (name, offset, size_bytes) in zip(descriptors, files, strict=True):
            content = staged[offset : offset + size_bytes]
            written = 0
            while written < size_bytes:
                written += os.write(descriptor, content[written:])
            os.fsync(descriptor)
            yield entry_of(name, content)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _save(store: CheckpointStore, staged: memoryview, order: dict[str, Any]) -> dict[str, Any]:
    """Do one order; returns the checkpoint's number, or why there is none."""
    files = order["files"]
    try:
        facts = CheckpointFacts.from_document(order["facts"])
        saved = store.saved(facts) if order["is_taken_over"] else None
        if saved is None:
            demand_disk(store.directory, sum(size_bytes for _, _, size_bytes in files))
            saved = store.save(lambda folder: list(write_files(folder, staged, files)), facts)
    except (OSError, NoRoom) as error:
        return {"failed": str(error)}
    try:
        store.prune(keep_last=order["keep_last"], keep=order["keep"])
    except OSError as error:
        return {"saved": saved.sequence, "name": saved.path.name, "failed": f"removing old checkpoints: {error}"}
    return {"saved": saved.sequence, "name": saved.path.name}


def _serve(directory: Path, descriptor: int) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what anybody prints must not get between the answers
    aside: list[SetAside] = []
    store = CheckpointStore(directory, on_damaged=aside.append)
    with store.writing(), mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as staged:
        for line in sys.stdin:
            answer = _save(store, staged, json.loads(line))
            answer["set_aside"] = [{**asdict(each), "path": str(each.path)} for each in aside]
            aside.clear()
            answers.write(json.dumps(answer) + "\n")


def _main() -> None:
    parent, directory, descriptor, priority = sys.argv[1:]
    die_with_parent(int(parent))
    for number in (signal.SIGTERM, signal.SIGINT):  # sent to the whole group they are the trainer's, who needs us then
        signal.signal(number, signal.SIG_IGN)
    if priority == IDLE:
        with idle_priority():
            _serve(Path(directory), int(descriptor))
    else:
        _serve(Path(directory), int(descriptor))


if __name__ == "__main__":
    _main()
