"""What a file is, apart from what its lines hold: regular, of a sane size, text."""

import codecs
import os
import stat
from pathlib import Path
from typing import BinaryIO

_LOOK_BYTES = 64 * 1024
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


def kind_of(path: Path) -> str | None:
    """Say what *path* is when it is no regular file, links not followed; ``None`` for a regular one."""
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return None
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")


def problem_with(file: BinaryIO, size_limit_bytes: int) -> tuple[int | None, str] | None:
    """Say line and cause when the open *file* cannot be training data, whatever its lines hold; reads its beginning."""
    status = os.fstat(file.fileno())
    if status.st_size == 0:
        return None, "is empty"
    if status.st_size > size_limit_bytes:
        why = f"has {status.st_size:,} bytes; the limit is {size_limit_bytes:,}. Split it into several files"
        return None, why
    return _sign_of_binary(file.read(_LOOK_BYTES))


def _sign_of_binary(beginning: bytes) -> tuple[int | None, str] | None:
    for magic, name in _COMPRESSED.items():
        if beginning.startswith(magic):
            return None, f"is compressed ({name}); unpack it first"
    for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if beginning.startswith(mark):
            return None, "is UTF-16 text; save it as UTF-8"
    if (position := beginning.find(b"\0")) >= 0:
        line = beginning.count(b"\n", 0, position) + 1
        return line, f"holds a NUL byte (byte {position:,}); this is binary data, not JSON Lines"
    if beginning.lstrip().startswith(b"["):
        return 1, "begins with a JSON list; write one JSON object a line"
    return None
