"""Asks a model, before a file is trained, whether rows that lie beside each other are read as each alone.

Attention can be told where a row begins; a recurrent state, or positions that a model counts from its mask, cannot. No
list of families would stay true, so the model itself is asked, with rows of the file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from thirdshift.apps.training.data.batches import Batch, EncodedPair, pack_rows, pad_rows
from thirdshift.apps.training.models.loss import logits_of, summed_loss
from thirdshift.apps.training.plans.layout import LAYOUTS
from thirdshift.apps.training.plans.plan import Plan

TOLERANCE = 1e-5
"""Largest difference of a logit or a gradient that is allowed, as a share of the largest one (at least of 1)."""

_LONGEST = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutCheck:
    """The layout that a model can be trained with, and why it is not a faster one (empty: it is the wanted one)."""

    layout: str
    why: str = ""


def check_layout(model: Any, plan: Plan, wanted: str) -> LayoutCheck:
    """Return *wanted*, or the next slower layout in which rows of *plan* do not see each other.

    *model* must be in float32; its dropout is switched off meanwhile and its gradients are gone afterwards.
    """
    rows = _samples(plan)
    reasons = []
    was_training = model.training
    model.eval()
    try:
        alone = _Reading.of(model, [pad_rows([row], plan.facts.pad_id) for row in rows])
        for layout in LAYOUTS[LAYOUTS.index(wanted) : -1]:
            found = _difference(model, layout, rows, alone, plan.facts.pad_id)
            if found:
                reasons.append(f"{type(model).__name__} does not read {layout} rows as it reads each alone: {found}")
            elif layout == "buckets" or not _difference(model, "buckets", rows, alone, plan.facts.pad_id):
                return LayoutCheck(layout=layout, why="; ".join(reasons))  # a packed step may hold a padded line, too
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    return LayoutCheck(layout="alone", why="; ".join(reasons))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """What a model makes of some rows: logits of shape ``(lines, time, vocab)``, and the gradient of their loss."""

    logits: list[torch.Tensor]
    gradients: list[torch.Tensor]

    @classmethod
    def of(cls, model: Any, batches: Sequence[Batch]) -> "_Reading":
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            logits = [logits_of(model, batch) for batch in batches]
        for batch in batches:
            summed_loss(model, batch).backward()  # type: ignore[no-untyped-call]
        found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return cls(logits=logits, gradients=[gradient.clone() for gradient in found])


def _samples(plan: Plan) -> list[EncodedPair]:
    """Return three rows of different lengths; all their tokens are to be predicted, so that each is looked at."""
    numbers = plan.rows_of_step(0)
    longest, middle, shortest = (
        plan.tokens_of_row(numbers[place])[0][:_LONGEST] for place in (-1, len(numbers) // 2, 0)
    )
    cut = [longest, middle[: max(2, len(middle) * 2 // 3)], shortest[: max(2, len(shortest) // 2)]]
    return [(ids, np.arange(len(ids)) > 0) for ids in cut]


def _difference(model: Any, layout: str, rows: Sequence[EncodedPair], alone: _Reading, pad_id: int) -> str:
    """Say what differs when *rows* lie as in *layout*; empty when nothing does."""
    first, *others = rows
    batch = pack_rows([[first], others], pad_id) if layout == "packed" else pad_rows(rows, pad_id)
    try:
        together = _Reading.of(model, [batch])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    pairs = zip(_places(layout, rows), alone.logits, strict=True)
    logits = [(together.logits[0][line, start : start + one.shape[1]], one[0]) for (line, start), one in pairs]
    gradients = list(zip(together.gradients, alone.gradients, strict=True))
    for what, compared in (("logits", logits), ("gradients", gradients)):
        largest = max(float(expected.abs().max()) for _, expected in compared)
        apart = max(float((found - expected).abs().max()) for found, expected in compared) / max(largest, 1.0)
        if not apart <= TOLERANCE:  # also when it is no number
            return f"{what} differ by {apart:.1e}, allowed is {TOLERANCE:.0e}"
    return ""


def _places(layout: str, rows: Sequence[EncodedPair]) -> Iterator[tuple[int, int]]:
    """Yield line and first place of each row, as :func:`_difference` has laid them."""
    if layout == "buckets":
        yield from ((line, 0) for line in range(len(rows)))
        return
    yield 0, 0
    start = 0
    for ids, _ in rows[1:]:
        yield 1, start
        start += len(ids)
