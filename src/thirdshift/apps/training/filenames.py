"""Names of files that people chose: kept as they are, unless a namesake or the file system forces a change."""

import os
from pathlib import Path

from thirdshift.core.errors import UnsafePath
from thirdshift.host.files import numbered

REPORT_SUFFIX = ".report.json"
"""What is added to a file's name for the report beside it."""

_LIMIT_BYTES = 200  # of the 255 a file system allows; the rest is for -1, .report.json and marks of temporary files


def demand_plain_name(name: str) -> str:
    """Return *name*; raises :class:`UnsafePath` when it is anything but the plain name of one visible file."""
    if not name or "/" in name or "\0" in name or name.startswith("."):
        raise UnsafePath(name, "a file is named without any folder, and not with a dot first")
    if name.endswith(REPORT_SUFFIX):
        raise UnsafePath(name, f"names ending in {REPORT_SUFFIX} are kept for reports")
    return name


def storable(name: str) -> str:
    """*name* as every store, log and terminal takes it.

    Bytes that are no UTF-8 are spelled out (``\\xe9``), control characters become ``_``, and the stem is cut where it
    is too long for what has to be added to it.
    """
    readable = os.fsencode(name).decode("utf-8", "backslashreplace")
    path = Path("".join(letter if letter.isprintable() else "_" for letter in readable))
    stem = path.stem
    while len(os.fsencode(stem + path.suffix)) > _LIMIT_BYTES and len(stem) > 1:
        stem = stem[:-1]
    return stem + path.suffix


def free_name(folder: Path, name: str) -> str:
    """The first of :func:`thirdshift.host.files.numbered` under which *folder* holds neither a file nor a report."""
    for candidate in numbered(name):
        if not any(os.path.lexists(folder / f"{candidate}{end}") for end in ("", REPORT_SUFFIX)):
            return candidate
    raise AssertionError("unreachable: the names never end")
