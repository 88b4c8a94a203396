"""The end of a file's training: published or held back, written to the history, and done.

What is decided is on disk before it is carried out, so a crash anywhere leads to the same end.
"""

import json
from dataclasses import replace
from typing import Any

from thirdshift.apps.training.data.row_files import read_row_file
from thirdshift.apps.training.job import FileResult, TrainingJob
from thirdshift.apps.training.models.model import model_hash
from thirdshift.apps.training.models.publish import publish_current_model
from thirdshift.apps.training.plans.plan import FOR_REPLAY, Plan
from thirdshift.apps.training.records.attempts import AttemptLog
from thirdshift.apps.training.records.history import HELD_BACK, PUBLISHED, History
from thirdshift.apps.training.runs.decision import decide
from thirdshift.apps.training.runs.gate import worsened
from thirdshift.apps.training.runs.loss_log import curve
from thirdshift.apps.training.saving.checkpoints import Checkpoint, CheckpointStore
from thirdshift.host.files import write_atomically


def conclude(
    job: TrainingJob,
    plan: Plan,
    store: CheckpointStore,
    checkpoint: Checkpoint,
    result: FileResult,
    attempts: AttemptLog,
) -> FileResult:
    """Bring the trained *checkpoint* to its end and return the finished *result*; raises ``Skipped``."""
    history = None if job.history is None else History(job.history)
    result = _decide(job, plan, history, result)
    came_of_it = model_hash(checkpoint.path)
    if result.held_back:
        store.hold_back(plan.hash)
    else:
        publish_current_model(checkpoint.path, job.current_model)
    if history is not None:
        history.add(
            job.work.name,
            examination=plan.held_out(),
            replay=read_row_file(plan.directory / FOR_REPLAY),
            losses=curve(job.work / "losses.f64"),
            file=plan.facts.data_name,
            outcome=HELD_BACK if result.held_back else PUBLISHED,
            causes=result.held_back,
            is_accepted=result.is_accepted,
            data_hash=plan.facts.data_hash,
            plan_hash=plan.hash,
            base_hash=plan.facts.base_hash,
            model_hash=came_of_it,
            attempts=tuple(attempts.with_end("finished", result.step)),
            result=result.to_document(),
        )
        if not result.held_back:
            history.forget_acceptance(plan.facts.data_hash)
    write_atomically(job.work / "result.json", json.dumps(result.to_document(), indent=1).encode())
    return result


def _decide(job: TrainingJob, plan: Plan, history: History | None, result: FileResult) -> FileResult:
    """Return *result* with what was decided: at the first call, from then on what is written."""

    def ask_the_gate() -> dict[str, Any]:
        is_accepted = history is not None and history.is_accepted(plan.facts.data_hash)
        worse = worsened(result.earlier_before, result.earlier_after, job.settings)
        files = {} if history is None else {record.key: record.file for record in history.records()}
        found = [f"{files.get(key, key)}: {how}" for key, how in worse.items()]
        return {"held_back": [] if is_accepted else found, "is_accepted": is_accepted and bool(found)}

    decided = decide(job.work, plan.facts.data_name, ask_the_gate)
    return replace(
        result, finished=True, held_back=tuple(decided["held_back"]), is_accepted=bool(decided["is_accepted"])
    )
