"""Rows in front of the model: side by side or end to end, with the labels that say what is to be predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NOT_TRAINED = -100  # the label that torch's cross entropy passes over

Integers = np.ndarray[Any, np.dtype[Any]]
EncodedPair = tuple[Any, Any]
"""The token ids of a row, and which of them are to be predicted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What the model is given; all arrays are int64 of shape ``(lines, time)``.

    Either ``attention_mask`` is there (one row a line, padded on the right) or ``position_ids`` are: several rows a
    line, each counted from 0 again, by which transformers tells where one row ends and the next must not look back.
    """

    input_ids: Integers
    labels: Integers
    attention_mask: Integers | None = None
    position_ids: Integers | None = None


def pad_rows(rows: Sequence[EncodedPair], pad_id: int) -> Batch:
    """Return the batch of *rows*, one a line. Padding has attention 0 and label -100."""
    time = max(len(ids) for ids, _ in rows)
    input_ids = np.full((len(rows), time), pad_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    labels = np.full_like(input_ids, NOT_TRAINED)
    for line, (ids, trained) in enumerate(rows):
        input_ids[line, : len(ids)] = ids
        attention_mask[line, : len(ids)] = 1
        _label(labels[line], 0, ids, trained)
    return Batch(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def pack_rows(lines: Sequence[Sequence[EncodedPair]], pad_id: int) -> Batch:
    """Return the batch of *lines*, each of rows end to end. Padding at the end of a line is one more row."""
    time = max(sum(len(ids) for ids, _ in rows) for rows in lines)
    input_ids = np.full((len(lines), time), pad_id, dtype=np.int64)
    position_ids = np.zeros_like(input_ids)
    labels = np.full_like(input_ids, NOT_TRAINED)
    for line, rows in enumerate(lines):
        start = 0
        for ids, trained in rows:
            end = start + len(ids)
            input_ids[line, start:end] = ids
            position_ids[line, start:end] = np.arange(len(ids))
            _label(labels[line], start, ids, trained)
            start = end
        position_ids[line, start:] = np.arange(time - start)
    return Batch(input_ids=input_ids, position_ids=position_ids, labels=labels)


def _label(labels: Integers, start: int, ids: Any, trained: Any) -> None:
    places = np.flatnonzero(trained)
    labels[start + places] = np.asarray(ids)[places]
