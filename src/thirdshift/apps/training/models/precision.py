"""Where and how precisely a model is computed. Weights and optimizer are always float32; only products are narrower.

bfloat16 has the range of float32 and needs nothing else. float16 has not: small gradients would vanish, so the loss is
scaled up, and the scale follows what overflows (Micikevicius et al., "Mixed Precision Training", 2018).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FIRST_SCALE = 2.0**16
_LARGEST_SCALE = 2.0**24
_STEPS_TO_DOUBLE = 1000


def device_here() -> torch.device:
    """Return the GPU where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision_here(wanted: str) -> str:
    """Return *wanted*, or for "auto" what this hardware does best: bf16 or fp16 on a GPU, fp32 on a processor."""
    if wanted != "auto":
        return wanted
    if device_here().type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def computing(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which the forward pass runs."""
    dtype = _DTYPES.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether *error* tells of memory that could not be had; on a processor torch has no class for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "not enough memory")
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossScale:
    """What the loss is multiplied by before the backward pass, and for how many steps nothing has overflowed."""

    factor: float = 1.0
    good_steps: int = 0

    @classmethod
    def first(cls, precision: str) -> "LossScale":
        """Return the scale of the first step; in other precisions than fp16 it is 1 and stays so."""
        return cls(factor=_FIRST_SCALE if precision == "fp16" else 1.0)

    @property
    def is_needed(self) -> bool:
        """True in fp16."""
        return self.factor != 1.0 or self.good_steps > 0

    def after(self, *, overflowed: bool) -> "LossScale":
        """Return the scale of the next step: half after an overflow, double after a thousand steps without one."""
        if not self.is_needed:
            return self
        if overflowed:
            return LossScale(factor=max(self.factor / 2, 2.0**-24))
        if self.good_steps + 1 < _STEPS_TO_DOUBLE:
            return LossScale(factor=self.factor, good_steps=self.good_steps + 1)
        return LossScale(factor=min(self.factor * 2, _LARGEST_SCALE))

    def take_back(self, parameters: Iterable[Any]) -> bool:
        """Divide the gradients by the factor; returns whether any of them overflowed."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, 1 / self.factor)  # torch's own optimizers are made of it
        return not math.isfinite(float(torch.nn.utils.get_total_norm(gradients)))
