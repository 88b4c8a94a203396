"""The steps of one file. Each leaves its result on disk before the next begins, so a repetition passes over it."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from thirdshift.apps.training.checkpoints import CheckpointStore
from thirdshift.apps.training.evaluate import exact_match, examples_from_jsonl
from thirdshift.apps.training.job import OWN_EXAMINATION, Evaluation, FileResult, Progress, TrainingJob
from thirdshift.apps.training.model import load_model
from thirdshift.apps.training.plan import Plan
from thirdshift.apps.training.planning import build_plan
from thirdshift.apps.training.precision import device_here
from thirdshift.apps.training.publish import publish_current_model
from thirdshift.apps.training.rows import Row
from thirdshift.apps.training.trainer import TrainingOutcome, train
from thirdshift.core.errors import DamagedDirectory
from thirdshift.host.files import move_directory_without_overwriting, write_atomically
from thirdshift.storage.verified import sweep_temporaries

Report = Callable[[Progress], None]
ShouldStop = Callable[[], bool]
Evaluations = dict[str, Evaluation]


def run(job: TrainingJob, report: Report, should_stop: ShouldStop) -> FileResult:
    """Do what is left to do of *job*; see :func:`thirdshift.apps.training.train_file.train_file`."""
    result_path = job.work / "result.json"
    if result_path.exists():
        return FileResult.from_document(json.loads(result_path.read_bytes()))
    job.work.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(job.work)

    report(Progress(phase="planning"))
    plan = _load_or_build_plan(job, should_stop)
    if plan is None:
        return FileResult(finished=False)
    result = _planned(plan)

    report(Progress(phase="evaluating before"))
    before = _evaluate_once(job, plan, "before", job.current_model, should_stop)
    if before is None:
        return result
    result = replace(result, before=before)

    report(Progress(phase="training", total_steps=plan.total_steps))
    set_aside: list[str] = []
    store = CheckpointStore(job.checkpoints, on_damaged=lambda damaged: set_aside.append(damaged.path.name))

    def report_damage_too(progress: Progress) -> None:
        report(replace(progress, set_aside=tuple(set_aside)))

    outcome = train(
        plan,
        base=job.current_model,
        store=store,
        settings=job.settings,
        should_stop=should_stop,
        report=report_damage_too,
    )
    result = replace(_trained(result, outcome), set_aside=tuple(set_aside))
    if not outcome.finished or outcome.checkpoint is None:
        return result

    report(Progress(phase="evaluating after"))
    after = _evaluate_once(job, plan, "after", outcome.checkpoint.path, should_stop)
    if after is None:
        return result

    report(Progress(phase="publishing"))
    publish_current_model(outcome.checkpoint.path, job.current_model)
    result = replace(result, after=after, finished=True)
    write_atomically(result_path, json.dumps(result.to_document(), indent=1).encode())
    return result


def _load_or_build_plan(job: TrainingJob, should_stop: ShouldStop) -> Plan | None:
    """Return the file's plan. A damaged one is put aside and built again: the same sources give the same plan."""
    directory = job.work / "plan"
    if directory.exists():
        try:
            return Plan.load(directory)
        except DamagedDirectory:
            damaged = job.work / "damaged"
            damaged.mkdir(exist_ok=True)
            move_directory_without_overwriting(directory, damaged)
    _, tokenizer = load_model(job.current_model)
    return build_plan(
        job.data,
        directory,
        base=job.current_model,
        tokenizer=tokenizer,
        settings=job.settings,
        seed=job.seed,
        should_stop=should_stop,
    )


def _evaluate_once(
    job: TrainingJob, plan: Plan, moment: str, model_directory: Path, should_stop: ShouldStop
) -> Evaluations | None:
    """Return the examinations of this moment, from disk when they were held before; None after a stop."""
    path = job.work / f"evaluation_{moment}.json"
    if path.exists():
        document = json.loads(path.read_bytes())
        return {name: Evaluation.from_document(found) for name, found in document.items()}
    model, tokenizer = load_model(model_directory, attention=plan.settings.attention)
    model.to(device_here())
    evaluations: Evaluations = {}
    for name, examples in _examinations(job, plan).items():
        batch_size = job.settings.evaluation_batch_size
        evaluation = exact_match(model, tokenizer, examples, batch_size=batch_size, should_stop=should_stop)
        if evaluation is None:
            return None
        evaluations[name] = evaluation
    document = {name: asdict(evaluation) for name, evaluation in evaluations.items()}
    write_atomically(path, json.dumps(document, indent=1).encode())
    return evaluations


def _examinations(job: TrainingJob, plan: Plan) -> dict[str, list[Row]]:
    given = {path.name: examples_from_jsonl(path, job.settings.evaluation_limit) for path in job.held_out}
    own = plan.held_out()
    return {**given, OWN_EXAMINATION: own} if own else given


def _planned(plan: Plan) -> FileResult:
    return FileResult(
        finished=False,
        total_steps=plan.total_steps,
        rows=plan.facts.rows,
        held_out_rows=plan.facts.held_out_rows,
        cut_rows=plan.facts.cut_rows,
    )


def _trained(result: FileResult, outcome: TrainingOutcome) -> FileResult:
    return replace(
        result,
        step=outcome.step,
        tokens=outcome.tokens,
        seconds=outcome.seconds,
        first_loss=outcome.first_loss,
        last_loss=outcome.loss,
        is_exact=outcome.is_exact,
        layout=outcome.manifest.layout,
        layout_why=outcome.manifest.layout_why,
        precision=outcome.manifest.precision,
        micro_batch_size=outcome.manifest.micro_batch_sizes[-1][1],
        checkpoint=outcome.checkpoint.path.name if outcome.checkpoint else "",
    )
