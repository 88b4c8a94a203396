"""Files written so that a crash leaves the old content or the new one, never a mixture.

The order that makes it so: write a temporary file in the same folder, fsync it, rename it over the target, fsync the
folder. Without the last step the rename itself can be lost on power failure (Pillai et al., OSDI 2014).
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from thirdshift.core.errors import UnsafePath


def sync_directory(directory: Path) -> None:
    """Make renames, creations and deletions inside *directory* durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of *path* durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> BinaryIO:
    """Open the regular file *path* for reading. Raises :class:`UnsafePath` for a link or anything else, unread.

    What the name stands for may change at any moment; whoever goes on with the open file cannot be led elsewhere.
    """
    try:  # a FIFO must not hang who opens it
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise UnsafePath(path, "it is no regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafePath(path, "it is no regular file")
    return open(descriptor, "rb")


def make_folders(folder: Path) -> None:
    """Make *folder* and its missing parents durably: what is acknowledged inside must not vanish with the folder."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_directory(folder.parent)


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace *path* by *content* as one step; readers see the old bytes or the new ones.

    ``durable=False`` leaves out both fsyncs: right for a status file that is rewritten several times a second.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_new(temporary, content, durable=durable)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def create_atomically(path: Path, content: bytes) -> bool:
    """Create *path* with *content* as one durable step; False, and nothing changed, when it is there already."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        _write_new(temporary, content, durable=True)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


def move_without_overwriting(source: Path, folder: Path, name: str | None = None) -> Path:
    """Move *source* into *folder*; a namesake there is never overwritten, ``-1``, ``-2`` … is added instead.

    Both must lie on one file system. Returns the new path. The claim of the name is atomic (``link`` refuses an
    existing one), so two movers never meet. A crash between the link and the unlink leaves two names of one file;
    the next move of the old name finds its own twin and only finishes the unlink.
    """
    for candidate in numbered(name or source.name):
        target = folder / candidate
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            if not _is_same_file(source, target):
                continue
        source.unlink()
        sync_directory(folder)
        if source.parent != folder:
            sync_directory(source.parent)
        return target
    raise AssertionError("unreachable: the names never end")


def move_directory_without_overwriting(source: Path, folder: Path) -> Path:
    """Move the directory *source* into *folder* under a free name (directories cannot be linked)."""
    for candidate in numbered(source.name):
        target = folder / candidate
        if target.exists():
            continue
        try:
            source.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            raise
        sync_directory(folder)
        return target
    raise AssertionError("unreachable: the names never end")


def numbered(name: str) -> Iterator[str]:
    """*name*, then ``stem-1.suffix``, ``stem-2.suffix`` and so on without end."""
    yield name
    path = Path(name)
    number = 1
    while True:
        yield f"{path.stem}-{number}{path.suffix}"
        number += 1


def _write_new(path: Path, content: bytes, *, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except FileNotFoundError:
        return False
