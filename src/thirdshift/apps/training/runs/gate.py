"""The gate: does a file make earlier ones worse than it may? Two examinations of each decide, and nothing else.

Where answers are right or wrong, exact match decides; where hardly any was right before, or none could be asked, the
loss does. A fall counts only when it is more than chance explains, for an examination has a few dozen questions.
"""

import math
from collections.abc import Mapping

from thirdshift.apps.training.job import Evaluation
from thirdshift.apps.training.settings import TrainingSettings

FEWEST_QUESTIONS = 8
"""With fewer answers that were right, exact match says too little."""

SMALL_LOSS = 0.1
"""Growth of the loss per token that is never too much: near zero, percents say nothing."""

STANDARD_ERRORS = 2.0
"""A fall of exact match must be larger than so many standard errors of a difference of two shares."""


def worsened(
    before: Mapping[str, Evaluation],
    after: Mapping[str, Evaluation],
    settings: TrainingSettings,
) -> dict[str, str]:
    """Return which examinations of *before* became worse than *settings* allow, and in which way."""
    compared = ((name, before[name], after[name]) for name in before if name in after)
    found = {name: _verdict(first, second, settings) for name, first, second in compared}
    return {name: verdict for name, verdict in found.items() if verdict}


def _verdict(before: Evaluation, after: Evaluation, settings: TrainingSettings) -> str:
    if before.right < FEWEST_QUESTIONS:
        limit = before.loss * (1 + settings.worst_loss_growth / 100) + SMALL_LOSS
        if after.loss > limit:
            return f"loss {before.loss:.3f} before, {after.loss:.3f} after; allowed is {limit:.3f}"
        return ""
    fall = 100 * (before.accuracy - after.accuracy)
    if fall > max(settings.worst_match_fall, 100 * STANDARD_ERRORS * _standard_error(before, after)):
        shares = f"{before.accuracy:.1%} before, {after.accuracy:.1%} after"
        return f"exact match {shares}; allowed is a fall of {settings.worst_match_fall:g} points"
    return ""


def _standard_error(before: Evaluation, after: Evaluation) -> float:
    share = (before.right + after.right) / (before.asked + after.asked)
    return math.sqrt(share * (1 - share) * (1 / before.asked + 1 / after.asked))
