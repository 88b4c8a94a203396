"""Handing a trained model over: ``models/current_model`` takes the weights of a checkpoint and loads at every moment.

Readers open the directory whenever they like, so its files are replaced one by one, each as one step, in an order in
which every mixture of old and new loads: what describes the weights first, the weights last.
"""

import json
import os
import shutil
from pathlib import Path

from thirdshift.host.files import sync_directory, sync_file, write_atomically
from thirdshift.storage.verified import FileEntry, Manifest, hash_file, verify

WEIGHTS = "model.safetensors"
ORIGIN = "thirdshift.json"
NOT_PUBLISHED = frozenset({"optimizer.safetensors", "ledger.bin"})
OTHER_WEIGHTS = ("model-*-of-*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin*")


def publish_current_model(checkpoint: Path, current_model: Path) -> None:
    """Make *current_model* the model of *checkpoint*, whose every byte is verified first.

    Killed at any moment it leaves a directory that loads, with the old weights or the new ones; called again it
    finishes, or finds nothing to do. Raises ``DamagedDirectory`` when the checkpoint does not verify.
    """
    manifest = verify(checkpoint)
    current_model.mkdir(parents=True, exist_ok=True)
    _sweep(current_model)
    for entry in sorted(manifest.files, key=lambda entry: entry.path == WEIGHTS):
        if entry.path not in NOT_PUBLISHED:
            _take(entry, checkpoint, current_model)
    for pattern in OTHER_WEIGHTS:  # of a base that came in pieces; transformers prefers the one file
        for path in current_model.glob(pattern):
            path.unlink()
    _write_if_changed(current_model / ORIGIN, _origin(checkpoint, manifest))


def published_checkpoint(current_model: Path) -> str:
    """Return the name of the checkpoint that *current_model* was made of; empty for a model that was given."""
    try:
        return str(json.loads((current_model / ORIGIN).read_bytes())["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _take(entry: FileEntry, checkpoint: Path, current_model: Path) -> None:
    target = current_model / entry.path
    if target.is_file() and target.stat().st_size == entry.size_bytes and hash_file(target) == entry.blake3:
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.copyfile(checkpoint / entry.path, temporary)
    sync_file(temporary)
    temporary.replace(target)
    sync_directory(current_model)


def _origin(checkpoint: Path, manifest: Manifest) -> bytes:
    weights = next(entry for entry in manifest.files if entry.path == WEIGHTS)
    facts = {name: manifest.facts[name] for name in ("data_name", "plan_hash", "step", "base_hash")}
    return json.dumps({"checkpoint": checkpoint.name, "weights_blake3": weights.blake3, **facts}, indent=1).encode()


def _write_if_changed(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)


def _sweep(current_model: Path) -> None:
    for left in current_model.glob(".*.tmp"):
        left.unlink()
