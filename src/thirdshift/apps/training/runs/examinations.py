"""The examinations around the training of a file: its own, the given ones, and those of earlier files."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thirdshift.apps.training.data.rows import Row
from thirdshift.apps.training.job import Evaluation
from thirdshift.apps.training.models.evaluate import exact_match
from thirdshift.apps.training.models.model import load_model
from thirdshift.apps.training.models.precision import device_here
from thirdshift.apps.training.settings import TrainingSettings
from thirdshift.host.files import write_atomically

Questions = Mapping[str, list[Row]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What came of the examinations at one moment."""

    now: dict[str, Evaluation]
    """Given file's name (and "this file") to its evaluation."""
    earlier: dict[str, Evaluation]
    """Key of an earlier file's record to its evaluation."""


def examine_once(
    path: Path,
    model_directory: Path,
    now: Questions,
    earlier: Questions,
    settings: TrainingSettings,
    should_stop: Callable[[], bool],
    on_share: Callable[[float], None],
) -> Examined | None:
    """Ask the model all questions and write what came of it to *path*, or read it there; None after a stop.

    *on_share* is told how much is done, from 0 to 1.
    """
    if path.exists():
        document = json.loads(path.read_bytes())
        return Examined(**{part: _evaluations(document[part]) for part in ("now", "earlier")})
    model, tokenizer = load_model(model_directory, attention=settings.attention)
    model.to(device_here())
    found: dict[str, dict[str, Evaluation]] = {"now": {}, "earlier": {}}
    total, done = sum(map(len, [*now.values(), *earlier.values()])), 0

    def count_on(before: int) -> Callable[[int, int], None]:
        return lambda asked, _: on_share((before + asked) / total)

    for part, questions in (("now", now), ("earlier", earlier)):
        for name, examples in questions.items():
            evaluation = exact_match(
                model,
                tokenizer,
                examples,
                batch_size=settings.evaluation_batch_size,
                longest_answer=settings.evaluation_answer_limit,
                should_stop=should_stop,
                on_progress=count_on(done),
            )
            if evaluation is None:
                return None
            done += len(examples)
            found[part][name] = evaluation
    examined = Examined(**found)
    write_atomically(path, json.dumps(asdict(examined), indent=1).encode())
    return examined


def _evaluations(document: Mapping[str, Any]) -> dict[str, Evaluation]:
    return {name: Evaluation.from_document(found) for name, found in document.items()}
