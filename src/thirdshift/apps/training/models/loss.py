"""The loss: cross entropy of the answer tokens, summed, so that the caller decides what it is divided by."""

import functools
import inspect
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from thirdshift.apps.training.data.batches import NOT_TRAINED, Batch


def summed_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the cross entropy summed over the answer tokens of *batch*, a scalar that gradients flow from.

    Logits, of shape ``(lines, places, vocab)``, are only computed at the places of time where an answer token is
    predicted in any line: with a large vocabulary they cost more memory than all the rest.
    """
    is_answer = (batch.labels[:, 1:] != NOT_TRAINED).any(axis=0)
    places = torch.from_numpy(np.flatnonzero(is_answer) if is_answer.any() else np.zeros(1, dtype=np.int64))
    predicted = logits_of(model, batch, places)
    expected = torch.from_numpy(batch.labels)[:, places + 1].to(predicted.device)
    return cross_entropy(predicted.flatten(0, 1).float(), expected.flatten(), ignore_index=NOT_TRAINED, reduction="sum")


def logits_of(model: Any, batch: Batch, places: torch.Tensor | None = None) -> torch.Tensor:
    """Return the logits of *batch*, of shape ``(lines, time, vocab)``, or only those at *places* of time.

    Keys and values are not cached: with a cache some models read rows packed together as one.
    """
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
    inputs = {name: torch.from_numpy(array).to(model.device) for name, array in given.items() if array is not None}
    if places is not None and takes(model, "logits_to_keep"):
        return torch.as_tensor(model(**inputs, use_cache=False, logits_to_keep=places.to(model.device)).logits)
    logits = torch.as_tensor(model(**inputs, use_cache=False).logits)
    return logits if places is None else logits[:, places]


def takes(model: Any, name: str) -> bool:
    """Say whether the forward pass of *model* has a parameter called *name*; families differ."""
    return name in _parameters(model.forward.__func__)


@functools.cache
def _parameters(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
