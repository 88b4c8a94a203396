"""Directories that exist only when whole: the one mechanism under checkpoints and snapshots.

A verified directory is filled under a temporary name, every file is hashed (BLAKE3) and fsynced, ``manifest.json`` is
written last, and only then is the directory renamed to its real name. Whoever sees the name may trust that the writer
came to the end; whoever needs to know that the disk kept the bytes calls :func:`verify`.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from blake3 import blake3

from thirdshift.core.errors import DamagedDirectory
from thirdshift.host.files import sync_directory, sync_file, write_atomically
from thirdshift.storage.temporaries import temporary_beside

MANIFEST_NAME = "manifest.json"
CHUNK_BYTES = 1 << 20
_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of a verified directory: its path inside it, its size and its BLAKE3 hash in hex."""

    path: str
    size_bytes: int
    blake3: str
    chunks: tuple[str, ...] = ()
    """The hash of each MiB, when there is more than one: they say where a file is damaged."""


Fill = Callable[[Path], Iterable[FileEntry] | None]
"""Writes files into the folder it is given. Those it returns were hashed as they were written and are fsynced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a verified directory holds, and what its writer wants known about it (``facts``, plain JSON)."""

    files: tuple[FileEntry, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together, the manifest itself not counted."""
        return sum(entry.size_bytes for entry in self.files)


def publish(target: Path, fill: Fill, *, facts: Mapping[str, Any] | None = None) -> Manifest:
    """Make *target* appear as one step, with what *fill* writes into the folder it is given.

    Raises :class:`FileExistsError` when *target* exists. A crash or an exception leaves nothing under the name
    *target*; what it leaves under a temporary name is removed by
    :func:`~thirdshift.storage.temporaries.sweep_temporaries`, but never while its writer lives.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists; a verified directory is never overwritten")
    with temporary_beside(target) as temporary:
        return _publish(target, temporary, fill, facts)


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of *directory*; raises :class:`DamagedDirectory` when it is not as it was written."""
    try:
        document = json.loads((directory / MANIFEST_NAME).read_bytes())
        files = tuple(FileEntry(**{**each, "chunks": tuple(each.get("chunks", ()))}) for each in document["files"])
        if _encode(Manifest(files=files, facts=document["facts"])) != (directory / MANIFEST_NAME).read_bytes():
            raise ValueError("its bytes are not those that were written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedDirectory(directory, [f"{MANIFEST_NAME} cannot be read ({error})"]) from error
    for entry in files:
        path = PurePosixPath(entry.path)
        if path.is_absolute() or ".." in path.parts:
            raise DamagedDirectory(directory, [f"{MANIFEST_NAME} names {entry.path}, which leads out of it"])
    return Manifest(files=files, facts=document["facts"])


def verify(directory: Path) -> Manifest:
    """Read every byte of *directory* and compare it with its manifest.

    Raises :class:`DamagedDirectory` naming every file that is missing, has another size or another hash, or does not
    belong there.
    """
    manifest = read_manifest(directory)
    problems = [problem for entry in manifest.files if (problem := _problem(directory, entry))]
    expected = {entry.path for entry in manifest.files}
    problems += [f"{path} is not in the manifest" for path in _paths(directory) if path not in expected]
    if problems:
        raise DamagedDirectory(directory, problems)
    return manifest


def copy_verified(source: Path, target: Path, *, facts: Mapping[str, Any] | None = None) -> Manifest:
    """Publish a copy of the verified directory *source* at *target*, then verify the copy by reading it back.

    *facts* are added to those of the source. When the copy does not verify it is removed and
    :class:`DamagedDirectory` is raised.
    """
    origin = read_manifest(source)

    def fill(folder: Path) -> None:
        for entry in origin.files:
            copy = folder / entry.path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / entry.path, copy)
            if problem := _problem(folder, entry):
                raise DamagedDirectory(source, [f"copying it: {problem}"])

    publish(target, fill, facts={**origin.facts, **(facts or {})})
    try:
        return verify(target)
    except DamagedDirectory:
        shutil.rmtree(target)
        raise


def hash_file(path: Path) -> str:
    """Return the BLAKE3 hash of *path* in hex."""
    hasher = blake3()
    hasher.update_mmap(path)
    return hasher.hexdigest()


def _publish(target: Path, temporary: Path, fill: Fill, facts: Mapping[str, Any] | None) -> Manifest:
    try:
        known = {entry.path: entry for entry in fill(temporary) or ()}
        manifest = Manifest(files=_entries(temporary, known), facts=dict(facts or {}))
        for entry in manifest.files:
            if entry.path not in known:
                sync_file(temporary / entry.path)
        for folder in [temporary, *(path for path in temporary.rglob("*") if path.is_dir())]:
            sync_directory(folder)
        write_atomically(temporary / MANIFEST_NAME, _encode(manifest))
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        sync_directory(target.parent)
    except BaseException:  # whoever is told that it failed must not find it there
        with contextlib.suppress(OSError):
            target.rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return manifest


def _paths(directory: Path) -> list[str]:
    found = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
    return sorted(path for path in found if path != MANIFEST_NAME)


def entry_of(path: str, content: bytes | memoryview) -> FileEntry:
    """Return what a manifest says about a file *path* of that *content*."""
    size_bytes = len(content)
    chunks: tuple[str, ...] = ()
    if size_bytes > CHUNK_BYTES:
        view = memoryview(content)
        starts = range(0, size_bytes, CHUNK_BYTES)
        chunks = tuple(blake3(view[start : start + CHUNK_BYTES]).hexdigest() for start in starts)
    return FileEntry(path=path, size_bytes=size_bytes, blake3=blake3(content).hexdigest(), chunks=chunks)


def _entries(directory: Path, known: Mapping[str, FileEntry]) -> tuple[FileEntry, ...]:
    return tuple(known.get(path) or _entry(directory, path) for path in _paths(directory))


def _entry(directory: Path, path: str) -> FileEntry:
    size_bytes = (directory / path).stat().st_size
    return FileEntry(
        path=path,
        size_bytes=size_bytes,
        blake3=hash_file(directory / path),
        chunks=_chunks(directory / path) if size_bytes > CHUNK_BYTES else (),
    )


def _chunks(path: Path) -> tuple[str, ...]:
    with path.open("rb") as file:
        return tuple(blake3(chunk).hexdigest() for chunk in iter(lambda: file.read(CHUNK_BYTES), b""))


def _problem(directory: Path, entry: FileEntry) -> str | None:
    path = directory / entry.path
    if path.is_symlink():
        return f"{entry.path} is a symbolic link"
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        return f"{entry.path} cannot be read ({error.strerror})"
    if size_bytes != entry.size_bytes:
        return f"{entry.path} has {size_bytes:,} bytes instead of {entry.size_bytes:,}"
    if hash_file(path) != entry.blake3:
        return f"{entry.path} has other bytes than were written (BLAKE3 differs{_where(path, entry)})"
    return None


def _where(path: Path, entry: FileEntry) -> str:
    """Say which of the first MiB that differ, for a file that has more than one."""
    differing = [
        number for number, (now, then) in enumerate(zip(_chunks(path), entry.chunks, strict=False)) if now != then
    ]
    if not entry.chunks or not differing:
        return ""
    return f" in {len(differing)} of {len(entry.chunks)} MiB, first from byte {differing[0] * CHUNK_BYTES:,} on"


def _encode(manifest: Manifest) -> bytes:
    """Return the one form a manifest is written in; its last key is a hash of all before it, so that a flip shows."""
    files = [{name: value for name, value in asdict(entry).items() if value != ()} for entry in manifest.files]
    document = {"format": _FORMAT, "facts": dict(manifest.facts), "files": files}
    return json.dumps({**document, "blake3": blake3(json.dumps(document).encode()).hexdigest()}, indent=1).encode()
