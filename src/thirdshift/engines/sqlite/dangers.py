"""What may do harm to a file one day: where it lies, the library, other programs that have it open, who may
read it, its clock.

What ``health`` asks is how a store is now; this is for ``doctor``. Where the system has no ``/proc`` (macOS), other
programs and libraries are not to be seen, which is said.
"""

import sqlite3
from pathlib import Path

from thirdshift.core.health import Finding, HealthCode, HealthLimits, has_reset_race
from thirdshift.engines.sqlite.queries import QUERY
from thirdshift.host.filesystem import UNKNOWN, filesystem_type

_PROC = Path("/proc")


def dangers(path: Path, reader: sqlite3.Connection, limits: HealthLimits, now_us: int) -> list[Finding]:
    """Return the findings about the file *path*; *reader* is a connection for this alone."""
    has_race = has_reset_race(sqlite3.sqlite_version_info)
    return [
        _file_system(path),
        _library(has_race),
        _strangers(path, has_race),
        _permissions(path),
        _free_space(reader, limits.unused_bytes),
        _clock(reader, limits.ahead_s, now_us),
    ]


def _file_system(path: Path) -> Finding:
    """That of another machine was refused before the file was opened; ``doctor`` then finds nothing else."""
    kind = filesystem_type(path.parent)
    facts = {"type": None if kind == UNKNOWN else kind, "path": str(path)}
    return Finding(code=HealthCode.FILE_SYSTEM, is_healthy=True, facts=facts)


def _library(has_race: bool) -> Finding:
    """Two libraries in one process do not know of each other's locks: closing a file in one drops those of both."""
    files = _libraries()
    facts = {"version": sqlite3.sqlite_version, "has_race": has_race, "files": files}
    return Finding(code=HealthCode.LIBRARY, is_healthy=files is None or len(files) <= 1, facts=facts)


def _libraries() -> list[str] | None:
    try:
        lines = (_PROC / "self" / "maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    paths = {line.partition("/")[2] for line in lines}
    return sorted(f"/{path}" for path in paths if "sqlite3.so" in Path(path).name and "libsqlite3" in Path(path).name)


def _strangers(path: Path, has_race: bool) -> Finding:
    """They may read and write the file, but their checkpoints do not keep our rule (docs/adr/0001)."""
    programs = _programs_with(path) if _PROC.is_dir() else None
    is_healthy = not (programs and has_race)
    return Finding(code=HealthCode.STRANGERS, is_healthy=is_healthy, facts={"programs": programs, "has_race": has_race})


def _programs_with(path: Path) -> list[dict[str, int | str]]:
    """Return the programs that have *path* open; one of ours has the folder beside it open too, or a file in it."""
    folder = str(path.with_name(path.name + ".run"))
    found: list[dict[str, int | str]] = []
    for process in sorted(_PROC.iterdir()):
        if process.name.isdecimal():
            opened = _opened_by(process)
            if str(path) in opened and not any(Path(each).is_relative_to(folder) for each in opened):
                found.append({"pid": int(process.name), "name": _name_of(process)})
    return found


def _opened_by(process: Path) -> set[str]:
    """Return what *process* has open; nothing when it is another user's, or gone."""
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:
        return set()
    opened = set()
    for descriptor in descriptors:
        try:
            opened.add(str(descriptor.readlink()))
        except OSError:  # closed meanwhile
            continue
    return opened


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def _permissions(path: Path) -> Finding:
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", ".run")]
    modes = {file: file.stat().st_mode & 0o777 for file in files if file.exists()}
    opened = [{"path": str(file), "mode": f"{mode:04o}"} for file, mode in modes.items() if mode & 0o077]
    return Finding(code=HealthCode.PERMISSIONS, is_healthy=not opened, facts={"open": opened})


def _free_space(reader: sqlite3.Connection, limit_bytes: int) -> Finding:
    page, pages, free = (
        reader.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    is_healthy = free * page <= limit_bytes or free <= pages // 2
    facts = {"free_bytes": free * page, "size_bytes": pages * page, "limit_bytes": limit_bytes}
    return Finding(code=HealthCode.FREE_SPACE, is_healthy=is_healthy, facts=facts)


def _clock(reader: sqlite3.Connection, limit_s: float, now_us: int) -> Finding:
    (newest_us,) = reader.execute(QUERY["newest_submit"]).fetchone()
    ahead_s = 0.0 if newest_us is None else max(0.0, (newest_us - now_us) / 1e6)
    return Finding(code=HealthCode.CLOCK, is_healthy=ahead_s <= limit_s, facts={"ahead_s": ahead_s, "limit_s": limit_s})
