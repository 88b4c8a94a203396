"""The loss: cross entropy of the answer tokens, summed, so that the caller decides what it is divided by."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from thirdshift.apps.training.batches import NOT_TRAINED, Batch


def summed_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the cross entropy summed over the answer tokens of *batch*, a scalar that gradients flow from.

    Keys and values are not cached: with a cache some models read rows packed together as one. Logits, of shape
    ``(batch, time, vocab)``, are only computed from the first position that predicts an answer token on.
    """
    labels = torch.from_numpy(batch.labels)
    kept = _positions_needed(batch)
    logits = model(
        input_ids=torch.from_numpy(batch.input_ids),
        attention_mask=torch.from_numpy(batch.attention_mask),
        logits_to_keep=kept,
        use_cache=False,
    ).logits
    predicted, expected = logits[:, :-1], labels[:, 1 - kept :]
    return cross_entropy(predicted.flatten(0, 1).float(), expected.flatten(), ignore_index=NOT_TRAINED, reduction="sum")


def _positions_needed(batch: Batch) -> int:
    """Return how many positions, counted from the end, predict an answer token or are one."""
    first = int((batch.labels != NOT_TRAINED).any(axis=0).argmax())
    return int(batch.labels.shape[1]) - first + 1
