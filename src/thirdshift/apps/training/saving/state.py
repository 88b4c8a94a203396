"""What a checkpoint holds of the optimizer, put back into it, and what makes torch repeat itself.

Weights are stored as transformers stores them (``state_image``): a checkpoint opens without us. Optimizer tensors are
stored under the *name* of their parameter, never its position. Only safetensors is used: reading a file runs no code.
"""

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers

from thirdshift.apps.training.models.precision import device_here
from thirdshift.apps.training.settings import PlanSettings

OPTIMIZER_FILE = "optimizer.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def read_optimizer(folder: Path, *, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Put the optimizer tensors of *folder* back, each copied into memory of its own."""
    tensors = safetensors.torch.load_file(folder / OPTIMIZER_FILE)
    is_fused = bool(optimizer.defaults.get("fused"))
    for name, parameter in model.named_parameters():
        if f"{name}.step" not in tensors:  # it has had no gradient yet
            continue
        optimizer.state[parameter] = {
            moment: tensors[f"{name}.{moment}"].clone().to(parameter.device if is_fused or moment != "step" else "cpu")
            for moment in MOMENTS
        }


def make_optimizer(model: Any, settings: PlanSettings) -> torch.optim.AdamW:
    """Return AdamW over *model* that decays matrices and leaves vectors alone."""
    matrices = [parameter for _, parameter in _trainable(model) if parameter.ndim >= 2]
    vectors = [parameter for _, parameter in _trainable(model) if parameter.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        fused=settings.optimizer_implementation == "fused",
        foreach=settings.optimizer_implementation == "foreach",
    )


def prepare_numerics(settings: PlanSettings, precision: str = "fp32") -> dict[str, str]:
    """Make torch repeat itself bit for bit, and return the fingerprint under which it does so.

    Threads and determinism are switches of the whole process: call it in a process that does nothing but train.
    """
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and nothing here reads such memory
    device = device_here()
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may choose another kernel
        torch.backends.cuda.enable_flash_sdp(False)  # only the plain attention is said to repeat its gradient
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(False)
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "dtype": {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision],
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
    }


def _trainable(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter
