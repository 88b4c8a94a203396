"""Figures as text for other programs: JSON and CSV. Those for Prometheus stand in ``prometheus.py``."""

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thirdshift.core.engine import WorkerEngine
from thirdshift.core.figures import Bucket, Execution, Figures
from thirdshift.core.plain import plain

_BATCH = 1_000


def as_json(document: Any) -> str:
    """Return *document*, which is plain data, as one JSON text."""
    return json.dumps(document, indent=2)


def as_csv(buckets: Sequence[Bucket], describe: Callable[[Figures], Mapping[str, Any]]) -> str:
    """Return a line for each bucket's name and queue, below one with the names of the columns."""
    rows = [{"name": bucket.name, "queue": bucket.queue, **_flat(describe(bucket.figures))} for bucket in buckets]
    columns = ["name", "queue", *_flat(describe(Figures()))]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def line_of(execution: Execution) -> str:
    """Return one execution as a line of JSON."""
    return json.dumps(plain(execution), separators=(",", ":")) + "\n"


class ExecutionFile:
    """Appends the details of executions to a file and then forgets them, so that the store keeps new ones only."""

    def __init__(self, engine: WorkerEngine, path: Path) -> None:
        self._engine = engine
        self._path = path

    def write(self) -> None:
        """Write all there are. After a crash in between, some may stand in the file twice; none is missing."""
        while found := self._engine.executions_after(0, _BATCH):
            with open(self._path, "a", encoding="utf-8", opener=_private) as file:  # Path has no opener
                file.writelines(line_of(execution) for _, execution in found)
                file.flush()
                os.fsync(file.fileno())
            self._engine.forget_executions(found[-1][0])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found.update({f"{name}_{part}": number for part, number in value.items()})
        else:
            found[name] = value
    return found
