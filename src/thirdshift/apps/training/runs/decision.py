"""How the training of a file ends is decided once, by its gate or by a person who skips it: whoever is first.

The decision lies in the file's work folder, made as one step that refuses an existing one, before anything comes of it.
Two processes may ask at the same moment: that which trains, and the daemon that is told to skip.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thirdshift.core.errors import ThirdshiftError
from thirdshift.host.files import create_atomically

DECISION = "decision.json"
SKIPPED = "skipped by order"


class Skipped(ThirdshiftError):
    """A person gave the file up before it was published."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was {SKIPPED}")


def skip(work: Path) -> bool:
    """Decide that the file with that *work* folder is not published; False when its end was decided before."""
    work.mkdir(parents=True, exist_ok=True)
    return _decided(work, lambda: {"skipped": True}).get("skipped") is True


def decide(work: Path, name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what was decided about the file *name*: what *make* says, unless there is a decision already.

    Raises :class:`Skipped` when that is to skip it.
    """
    decided = _decided(work, make)
    if decided.get("skipped"):
        raise Skipped(name)
    return decided


def demand_not_skipped(work: Path, name: str) -> None:
    """Raise :class:`Skipped` when it is decided that the file *name* is not published."""
    if (_read(work) or {}).get("skipped"):
        raise Skipped(name)


def _decided(work: Path, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    found = _read(work)
    if found is not None:
        return found
    decision = make()
    if create_atomically(work / DECISION, json.dumps(decision, indent=1).encode()):
        return decision
    return _read(work) or {}


def _read(work: Path) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = json.loads((work / DECISION).read_bytes())
    except FileNotFoundError:
        return None
    return found
