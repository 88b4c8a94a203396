"""Figures as text for other programs: JSON and CSV. Those for Prometheus stand in ``prometheus.py``."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thirdshift.core.figures import Bucket, Execution, Figures
from thirdshift.core.plain import plain


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


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found.update({f"{name}_{part}": number for part, number in value.items()})
        else:
            found[name] = value
    return found
