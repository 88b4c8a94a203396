"""Rows side by side: padded to one length, with the labels that say what is to be predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NOT_TRAINED = -100  # the label that torch's cross entropy passes over

Integers = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows padded on the right to the longest of them; all arrays are int64 of shape ``(batch, time)``.

    Padding has attention 0 and label -100, so it changes neither a logit of a real token nor the loss.
    """

    input_ids: Integers
    attention_mask: Integers
    labels: Integers


def pad_rows(rows: Sequence[tuple[Any, Any]], pad_id: int) -> Batch:
    """Return the batch of *rows*, each a pair (token ids, which of them are to be predicted)."""
    time = max(len(ids) for ids, _ in rows)
    input_ids = np.full((len(rows), time), pad_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    labels = np.full_like(input_ids, NOT_TRAINED)
    for line, (ids, trained) in enumerate(rows):
        input_ids[line, : len(ids)] = ids
        attention_mask[line, : len(ids)] = 1
        places = np.flatnonzero(trained)
        labels[line, places] = input_ids[line, places]
    return Batch(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
