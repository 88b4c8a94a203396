"""What is frozen when a file's training begins, beside its plan: layout, precision, and the sizes of micro-batches.

All three decide the last bits of the result, and none can be known from the file alone: the model decides the layout,
the hardware the precision, and the memory the micro-batch. So they are written down before the first step that they
hold for, and every attempt reads them again.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from blake3 import blake3

from thirdshift.apps.training.plans.plan import Plan
from thirdshift.core.errors import ThirdshiftError
from thirdshift.host.files import write_atomically


class DamagedManifest(ThirdshiftError):
    """Neither copy of a run's manifest can be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} and its copy are damaged, and what they say cannot be found out in another way. Remove both and "
            "the plan beside them to train the file from its beginning, or bring them back from a backup."
        )


class NotEnoughMemory(ThirdshiftError):
    """Not even one row fits into memory."""

    def __init__(self, data_name: str, step: int) -> None:
        super().__init__(
            f"training {data_name}: step {step + 1} does not fit into memory with one row at a time. Set "
            "gradient_checkpointing, a lower max_context, or take a smaller model or more memory."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunManifest:
    """How a plan is carried out."""

    plan_hash: str
    layout: str
    """See :data:`thirdshift.apps.training.plans.layout.LAYOUTS`."""
    layout_why: str
    """Why the layout is slower than the wanted one; empty when it is not."""
    precision: str
    """"fp32", "bf16" or "fp16"."""
    micro_batch_sizes: tuple[tuple[int, int], ...]
    """From which step on a micro-batch has how many rows; the first entry is of step 0."""

    @classmethod
    def load(cls, plan: Plan) -> Self | None:
        """Return the manifest of *plan*, None when its training has not begun; raises :class:`DamagedManifest`."""
        path, copy = _paths(plan)
        if not path.exists() and not copy.exists():
            return None
        for each in (path, copy):
            try:
                document = json.loads(each.read_bytes())
                if document.pop("blake3") == _hash_of(document):
                    sizes = tuple((step, size) for step, size in document.pop("micro_batch_sizes"))
                    found = cls(**document, micro_batch_sizes=sizes)
                    return found if found.plan_hash == plan.hash else None  # that of a plan which was here before
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
        raise DamagedManifest(path)

    def save(self, plan: Plan) -> None:
        """Write the manifest and a copy of it beside *plan*; both are durable on return."""
        document = asdict(self)
        content = json.dumps({**document, "blake3": _hash_of(json.loads(json.dumps(document)))}, indent=1).encode()
        for path in reversed(_paths(plan)):
            write_atomically(path, content)

    def micro_batch_size_of_step(self, step: int) -> int:
        """Return how many rows a micro-batch of *step* has at most."""
        return next(size for begin, size in reversed(self.micro_batch_sizes) if begin <= step)

    def halved(self, step: int) -> Self:
        """Return the manifest in which micro-batches are half as large from *step* on."""
        size = self.micro_batch_size_of_step(step) // 2
        earlier = tuple((begin, old) for begin, old in self.micro_batch_sizes if begin < step)
        return replace(self, micro_batch_sizes=(*earlier, (step, size)))


def _paths(plan: Plan) -> tuple[Path, Path]:
    directory = plan.directory
    return directory.with_name(f"{directory.name}.manifest.json"), directory.with_name(
        f"{directory.name}.manifest.copy"
    )


def _hash_of(document: dict[str, object]) -> str:
    return blake3(json.dumps(document, sort_keys=True).encode()).hexdigest()
