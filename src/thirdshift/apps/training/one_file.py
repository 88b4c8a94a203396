"""Training one file in front of a person, without inbox, queue or daemon; and asking a model how good it is."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from blake3 import blake3

from thirdshift.apps.training.config import config_of
from thirdshift.apps.training.job import Evaluation, TrainingJob
from thirdshift.apps.training.models.base_model import demand_base_model, ensure_base_model
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.core.errors import UsageError
from thirdshift.host.disk import DiskGuard
from thirdshift.host.instance import PIDManager
from thirdshift.storage.verified import hash_file


@contextmanager
def prepared_job(root: Path, data: Path, *, seed: int, epochs: int | None = None) -> Iterator[TrainingJob]:
    """Give the job that trains *data* on the current model of the workspace *root*; no daemon may run meanwhile.

    The same file with the same settings and seed is the same job: interrupted, it goes on; finished, it is not trained
    twice. Raises ``AlreadyRunning``, ``ConfigurationError``, and ``DiskFull`` before anything is made.
    """
    workspace = TrainingWorkspace(root)
    config = config_of(workspace)
    settings = config.training if epochs is None else replace(config.training, epochs=epochs)
    demand_base_model(workspace, config.model)
    workspace.create()
    with PIDManager(workspace.pid_file, "the training daemon"):
        DiskGuard(config.disk.min_free_gb, config.disk.warn_free_gb).require(workspace.checkpoints)
        ensure_base_model(workspace, config.model)
        what = json.dumps([hash_file(data), asdict(settings), seed])
        yield TrainingJob(
            data=data,
            current_model=workspace.current_model,
            checkpoints=workspace.checkpoints,
            work=workspace.runs / f"{data.stem}.{blake3(what.encode()).hexdigest()[:12]}",
            held_out=tuple(sorted(workspace.held_out.glob("*.jsonl"))),
            history=workspace.history,
            settings=settings,
            seed=seed,
        )


def examine(
    root: Path,
    files: Sequence[Path] = (),
    *,
    model: Path | None = None,
    limit: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[str, int, int], None] = lambda _name, _asked, _of: None,
) -> dict[str, Evaluation] | None:
    """Ask the current model of the workspace *root* (or *model*) the rows of *files*; None after a stop.

    Without files, those in ``data/heldout`` are asked. Raises :class:`UsageError` when there is nothing to ask.
    """
    workspace = TrainingWorkspace(root)
    asked = list(files) or sorted(workspace.held_out.glob("*.jsonl"))
    if not asked:
        raise UsageError(
            f"no file was named and {workspace.held_out} holds none. Name one, or make one with "
            "'thirdshift train generate --held-out'."
        )
    from thirdshift.apps.training.models.evaluate import exact_match, examples_from_jsonl  # noqa: PLC0415  # loads torch
    from thirdshift.apps.training.models.model import load_model  # noqa: PLC0415
    from thirdshift.apps.training.models.precision import device_here  # noqa: PLC0415

    loaded, tokenizer = load_model(model or workspace.current_model)
    loaded.to(device_here())
    found: dict[str, Evaluation] = {}
    for path in asked:
        examples = examples_from_jsonl(path, limit)
        evaluation = exact_match(
            loaded,
            tokenizer,
            examples,
            should_stop=should_stop,
            on_progress=lambda done, of, name=path.name: on_progress(name, done, of),  # type: ignore[misc]
        )
        if evaluation is None:
            return None
        found[path.name] = evaluation
    return found
