"""Progress over all files, made from the history alone: one document, two curves, and the same as CSV."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thirdshift.apps.training.job import OWN_EXAMINATION, Evaluation, FileResult
from thirdshift.apps.training.records.chart import Chart, Line, shortened
from thirdshift.apps.training.records.history import CURVE, PUBLISHED, FileRecord, History

LINES_AT_MOST = 6
POINTS_OF_A_CURVE = 2000
NAMES_ON_AN_AXIS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A record with its result; the curve of its loss is read when it is asked for."""

    record: FileRecord
    result: FileResult
    folder: Path

    def losses(self) -> list[tuple[int, float]]:
        """Return (step, mean loss) of the file; nothing when the curve is gone."""
        try:
            with (self.folder / CURVE).open(encoding="utf-8", newline="") as file:
                return [(int(line["step"]), float(line["loss"])) for line in csv.DictReader(file)]
        except (OSError, ValueError, KeyError):
            return []


class Report:
    """Everything that a person may want to see of a *history*; read once."""

    def __init__(self, history: History) -> None:
        self.records = history.records()
        self.damaged = [path.name for path in history.damaged()]
        self.trained = [
            Trained(
                record=record,
                result=FileResult.from_document(dict(record.result)),
                folder=history.directory / record.key,
            )
            for record in self.records
            if record.result
        ]
        self.names = {record.key: record.file for record in self.records}

    def document(self) -> dict[str, Any]:
        """Return the report as plain data."""
        results = [one.result for one in self.trained]
        return {
            "files": [_line(record) for record in self.records],
            "forgetting": self.forgetting(),
            "totals": {
                "files": len(self.records),
                "published": sum(record.outcome == PUBLISHED for record in self.records),
                "rows": sum(result.rows for result in results),
                "tokens": sum(result.tokens for result in results),
                "seconds": sum(result.seconds for result in results),
            },
            "damaged_records": self.damaged,
        }

    def forgetting(self) -> list[dict[str, Any]]:
        """Return what the model knew of each examined file after each trained one: a row each, key to exact match."""
        return [
            {"key": one.record.key, "file": one.record.file, "outcome": one.record.outcome, "exact_match": found}
            for one in self.trained
            if (found := _matches(one))
        ]

    def loss_chart(self) -> Chart:
        """Return the loss of all steps of all files, one after the other."""
        each = max(2, POINTS_OF_A_CURVE // max(1, len(self.trained)))
        points: list[tuple[float, float]] = []
        ends: list[tuple[float, str]] = []
        start = 0
        for one in self.trained:
            points += [(start + step, loss) for step, loss in _thinned(one.losses(), each)]
            start += one.result.total_steps
            ends.append((start, one.record.file))
        losses = [loss for _, loss in points if loss > 0]
        return Chart(
            title="Loss per answer token; a dotted line ends a file",
            x_name="optimizer step, all files",
            y_name="loss",
            lines=[Line(name="loss", points=points)],
            is_logarithmic=bool(losses) and max(losses) > 20 * min(losses),
            marks=[end for end, _ in ends[:-1]] if len(ends) <= 100 else (),
        )

    def match_chart(self) -> Chart:
        """Return the exact match after each file that is in the model: given examinations, its own, earlier files."""
        found: dict[str, list[tuple[float, float]]] = {}
        published = [one for one in self.trained if one.record.outcome == PUBLISHED]
        for number, one in enumerate(published, start=1):
            for name, evaluation in one.result.after.items():
                label = "the file's own" if name == OWN_EXAMINATION else name
                found.setdefault(label, []).append((number, evaluation.accuracy))
            if one.result.earlier_after:
                found.setdefault("earlier files", []).append((number, _together(one.result.earlier_after)))
        labels = [(float(number), shortened(one.record.file, 12)) for number, one in enumerate(published, start=1)]
        return Chart(
            title="Exact match after each file that is in the model",
            x_name="file",
            y_name="exact match",
            lines=[Line(name=name, points=points, has_dots=True) for name, points in found.items()][:LINES_AT_MOST],
            x_range=(0.5, max(1, len(published)) + 0.5),
            y_range=(0.0, 1.0),
            is_percent=True,
            x_labels=labels if len(labels) <= NAMES_ON_AN_AXIS else (),
        )

    def loss_csv(self) -> str:
        """Return the losses of all files as CSV."""
        lines = ((one.record.key, one.record.file, step, loss) for one in self.trained for step, loss in one.losses())
        return _csv(("record", "file", "step", "loss"), lines)

    def match_csv(self) -> str:
        """Return all examinations of all files as CSV."""
        return _csv(
            ("record", "file", "outcome", "examination", "asked", "before", "after", "loss_before", "loss_after"),
            self._examinations(),
        )

    def _examinations(self) -> Iterator[Sequence[object]]:
        for one in self.trained:
            before = one.result.before | one.result.earlier_before
            for name, after in (one.result.after | one.result.earlier_after).items():
                first = before[name]
                numbers = (after.asked, first.accuracy, after.accuracy, first.loss, after.loss)
                yield (one.record.key, one.record.file, one.record.outcome, name, *numbers)


def _line(record: FileRecord) -> dict[str, Any]:
    known = {
        "number": record.number,
        "key": record.key,
        "file": record.file,
        "outcome": record.outcome,
        "is_accepted": record.is_accepted,
        "causes": record.causes,
        "ended_at": record.ended_at,
        "attempts": len(record.attempts),
    }
    if not record.result:
        return known
    result = FileResult.from_document(dict(record.result))
    has_earlier = bool(result.earlier_after)
    return {
        **known,
        "rows": result.rows,
        "replay_rows": result.replay_rows,
        "accuracy_before": result.accuracy_before,
        "accuracy_after": result.accuracy_after,
        "earlier_before": _together(result.earlier_before) if has_earlier else None,
        "earlier_after": _together(result.earlier_after) if has_earlier else None,
        "first_loss": result.first_loss,
        "last_loss": result.last_loss,
        "seconds": result.seconds,
        "tokens": result.tokens,
        "missing": result.missing,
    }


def _matches(one: Trained) -> dict[str, float]:
    found = {key: evaluation.accuracy for key, evaluation in one.result.earlier_after.items()}
    if (own := one.result.after.get(OWN_EXAMINATION)) is not None:
        found[one.record.key] = own.accuracy
    return found


def _together(evaluations: Mapping[str, Evaluation]) -> float:
    asked = sum(evaluation.asked for evaluation in evaluations.values())
    return sum(evaluation.right for evaluation in evaluations.values()) / asked if asked else 0.0


def _thinned(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """Return at most *most* points, each the mean of as many."""
    width = max(1, math.ceil(len(points) / most))
    parts = (points[start : start + width] for start in range(0, len(points), width))
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def _csv(columns: Sequence[str], lines: Iterator[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue()
