"""The steps of one file. Each leaves its result on disk before the next begins, so a repetition passes over it."""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace

from thirdshift.apps.training.data.replay import Replay
from thirdshift.apps.training.data.rows import Row
from thirdshift.apps.training.job import OWN_EXAMINATION, FileResult, OutOfMemory, Progress, TrainingJob
from thirdshift.apps.training.models.evaluate import examples_from_jsonl
from thirdshift.apps.training.models.model import load_model, model_hash
from thirdshift.apps.training.plans.plan import Plan
from thirdshift.apps.training.plans.planning import build_plan
from thirdshift.apps.training.records.attempts import ATTEMPTS, AttemptLog
from thirdshift.apps.training.records.history import History
from thirdshift.apps.training.runs.decision import DECISION, demand_not_skipped
from thirdshift.apps.training.runs.earlier import Earlier
from thirdshift.apps.training.runs.ending import conclude
from thirdshift.apps.training.runs.examinations import Examined, examine_once
from thirdshift.apps.training.runs.loss_log import LossLog
from thirdshift.apps.training.runs.trainer import TrainingOutcome, train
from thirdshift.apps.training.saving.checkpoints import CheckpointStore
from thirdshift.core.errors import DamagedDirectory
from thirdshift.host.files import move_directory_without_overwriting
from thirdshift.storage.temporaries import sweep_temporaries

_logger = logging.getLogger("thirdshift.training")

Report = Callable[[Progress], None]
ShouldStop = Callable[[], bool]


def run(job: TrainingJob, report: Report, should_stop: ShouldStop) -> FileResult:
    """Do what is left to do of *job*; see :func:`thirdshift.apps.training.runs.train_file.train_file`."""
    if (done := _result_of_before(job)) is not None:
        return done
    demand_not_skipped(job.work, job.data.name)
    job.work.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(job.work)
    _begin_anew_on_another_model(job)
    attempts = AttemptLog(job.work)
    attempts.begin()
    try:
        result = _attempt(job, attempts, report, should_stop)
    except OutOfMemory as error:
        attempts.end("out of memory; a fresh process goes on with smaller micro-batches", error.step)
        raise
    except Exception as error:
        attempts.end(f"{type(error).__name__}: {error}", 0)
        raise
    attempts.end("finished" if result.finished else "stopped", result.step)
    return result


def _result_of_before(job: TrainingJob) -> FileResult | None:
    """Return the result of a job that is done. One that was held back and is accepted now has more to do."""
    path = job.work / "result.json"
    if not path.exists():
        return None
    result = FileResult.from_document(json.loads(path.read_bytes()))
    if not result.held_back or job.history is None:
        return result
    plan = Plan.load(job.work / "plan")
    if not History(job.history).is_accepted(plan.facts.data_hash):
        return result
    (job.work / DECISION).unlink(missing_ok=True)
    path.unlink()
    return None


def _begin_anew_on_another_model(job: TrainingJob) -> None:
    """Forget what was trained of *job* when another file was published since: to go on would lose what that one taught.

    Once it is decided that *job* itself is published, the model may already be its own.
    """
    directory = job.work / "plan"
    if not directory.exists() or (job.work / DECISION).exists():
        return
    with contextlib.suppress(DamagedDirectory):
        if Plan.load(directory).facts.base_hash == model_hash(job.current_model):
            return
        _logger.warning("training.begins_anew file=%s why=another model is current now", job.data.name)
        for path in job.work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ATTEMPTS:
                path.unlink()


def _attempt(job: TrainingJob, attempts: AttemptLog, report: Report, should_stop: ShouldStop) -> FileResult:
    def share_of(phase: str) -> Callable[[float], None]:
        return lambda share: report(Progress(phase=phase, share=share))

    report(Progress(phase="planning"))
    earlier = None if job.history is None else _freeze_earlier(job, History(job.history))
    replay = Replay() if earlier is None else earlier.replay()
    plan = _load_or_build_plan(job, replay, should_stop, share_of("planning"))
    if plan is None:
        return FileResult(finished=False)
    result = _planned(plan, earlier)

    report(Progress(phase="evaluating before"))
    before = _examine(job, plan, earlier, "before", should_stop, share_of("evaluating before"))
    if before is None:
        return result
    result = replace(result, before=before.now, earlier_before=before.earlier)

    report(Progress(phase="training", total_steps=plan.total_steps))
    set_aside: list[str] = []
    store = CheckpointStore(job.checkpoints, on_damaged=lambda damaged: set_aside.append(damaged.path.name))
    store.take_back(plan.hash)

    def report_damage_too(progress: Progress) -> None:
        report(replace(progress, set_aside=tuple(set_aside)))

    with LossLog(job.work / "losses.f64", plan.total_steps) as losses:
        outcome = train(
            plan,
            base=job.current_model,
            store=store,
            settings=job.settings,
            should_stop=should_stop,
            report=report_damage_too,
            on_step=losses.note,
        )
    result = replace(_trained(result, outcome), set_aside=tuple(set_aside))
    if not outcome.finished or outcome.checkpoint is None:
        return result

    report(Progress(phase="evaluating after"))
    after = _examine(job, plan, earlier, "after", should_stop, share_of("evaluating after"), outcome)
    if after is None:
        return result

    report(Progress(phase="publishing"))
    result = replace(result, after=after.now, earlier_after=after.earlier)
    return conclude(job, plan, store, outcome.checkpoint, result, attempts)


def _freeze_earlier(job: TrainingJob, history: History) -> Earlier:
    return Earlier.freeze(job.work / "earlier.json", history, job.settings)


def _load_or_build_plan(
    job: TrainingJob, replay: Replay, should_stop: ShouldStop, on_share: Callable[[float], None]
) -> Plan | None:
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
        replay=replay,
        should_stop=should_stop,
        on_share=on_share,
    )


def _examine(
    job: TrainingJob,
    plan: Plan,
    earlier: Earlier | None,
    moment: str,
    should_stop: ShouldStop,
    on_share: Callable[[float], None],
    outcome: TrainingOutcome | None = None,
) -> Examined | None:
    """Hold the examinations of this *moment*: those after training with the model of the last checkpoint."""
    given: dict[str, list[Row]] = {
        path.name: examples_from_jsonl(path, job.settings.evaluation_limit) for path in job.held_out
    }
    own = plan.held_out()
    return examine_once(
        job.work / f"evaluation_{moment}.json",
        job.current_model if outcome is None or outcome.checkpoint is None else outcome.checkpoint.path,
        {**given, OWN_EXAMINATION: own} if own else given,
        {} if earlier is None else earlier.examinations(),
        job.settings,
        should_stop,
        on_share,
    )


def _planned(plan: Plan, earlier: Earlier | None) -> FileResult:
    return FileResult(
        finished=False,
        total_steps=plan.total_steps,
        rows=plan.facts.rows,
        held_out_rows=plan.facts.held_out_rows,
        cut_rows=plan.facts.cut_rows,
        replay_rows=plan.facts.replay_rows,
        replayed=tuple(source.file for source in plan.facts.replay),
        missing=(*plan.facts.replay_missing, *([] if earlier is None else earlier.missing())),
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
