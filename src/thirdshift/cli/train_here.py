"""``thirdshift train run|evaluate|generate``: what the daemon does in the background, done in front of a person."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from thirdshift.cli.output import Session, print_facts, print_json, print_table

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_LINE_EVERY_S = 10.0
"""Seconds between two lines of progress where there is no terminal."""


@click.command()
@click.argument("file", type=_FILE)
@click.option("--epochs", type=click.IntRange(min=1), help="Times that every row is trained. Default: as configured.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed trains a finished file once more.")
@click.pass_obj
def run(session: Session, file: Path, epochs: int | None, seed: int) -> int:
    """Train FILE on the workspace's current model, now and here, and examine the model before and after.

    A file that makes earlier ones worse than it may is held back: the model stays as it was, the exit code is 1, and
    'train accept' lets it pass. Interrupted by Ctrl-C or a crash, the same command goes on where it was, to the same
    bits. The model is replaced when the file is done and not before. Not while the daemon of the workspace runs.

    \b
    thirdshift train run my-rows.jsonl
    thirdshift --json train run my-rows.jsonl | jq .last_loss
    """
    from thirdshift.apps.training.data.rows import BadLine  # noqa: PLC0415
    from thirdshift.apps.training.one_file import prepared_job  # noqa: PLC0415
    from thirdshift.apps.training.runs.train_file import train_file  # noqa: PLC0415
    from thirdshift.host.signals import StopSignals  # noqa: PLC0415

    preparing = prepared_job(session.workspace, file.absolute(), seed=seed, epochs=epochs)
    with StopSignals() as signals, preparing as job, _progress() as show:
        try:
            result = train_file(
                job,
                report=lambda now: show(now.phase, *_done_of(now), _pace(now)),
                should_stop=lambda: signals.stop_requested,
            )
        except BadLine as error:
            raise click.ClickException(f"{error}. Nothing was trained.") from error
    if session.as_json:
        print_json(result.to_document())
    elif result.finished:
        print_facts(_facts(result))
        for cause in result.held_back:
            click.echo(f"held back, the model is as it was: it makes an earlier file worse, {cause}", err=True)
        if result.held_back:
            click.echo(f"'thirdshift train accept {file.name}' and the same command again publish it", err=True)
    else:
        click.echo(
            f"stopped after step {result.step} of {result.total_steps}; the same command goes on there", err=True
        )
    if result.held_back:
        return 1
    return 0 if result.finished else 128 + int(signals.received or 2)


@click.command()
@click.argument("files", type=_FILE, nargs=-1)
@click.option("--model", type=_FOLDER, help="Folder of the model. Default: the workspace's current model.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask at most so many rows of each file.")
@click.pass_obj
def evaluate(session: Session, files: tuple[Path, ...], model: Path | None, limit: int | None) -> int:
    """Ask the model the questions of FILES and count the answers that are right letter for letter.

    Without FILES, those in data/heldout are asked.

    \b
    thirdshift train evaluate
    thirdshift --json train evaluate exam.jsonl --limit 100
    """
    from thirdshift.apps.training.one_file import examine  # noqa: PLC0415
    from thirdshift.host.signals import StopSignals  # noqa: PLC0415

    with StopSignals() as signals, _progress() as show:
        found = examine(
            session.workspace,
            files,
            model=model,
            limit=limit,
            should_stop=lambda: signals.stop_requested,
            on_progress=lambda name, asked, of: show(f"asking {name}", asked, of, ""),
        )
    if found is None:
        click.echo("stopped; nothing was decided", err=True)
        return 128 + int(signals.received or 2)
    if session.as_json:
        print_json({name: {**asdict(one), "accuracy": one.accuracy} for name, one in found.items()})
        return 0
    rows = []
    for name, one in found.items():
        rows.append((name, "all", str(one.asked), str(one.right), f"{one.accuracy:.1%}", f"{one.loss:.4f}"))
        rows += [
            (name, level, str(asked), str(right), f"{right / asked:.1%}", "")
            for level, (right, asked) in sorted(one.by_level.items(), key=lambda pair: (len(pair[0]), pair[0]))
        ]
    print_table(("file", "level", "asked", "right", "exact match", "loss"), rows)
    return 0


@click.command()
@click.option("--count", type=click.IntRange(min=0), default=1000, show_default=True, help="Puzzles.")
@click.option("--levels", default="1-3", show_default=True, help="Levels of difficulty, such as 3, 1-3 or 1,4,10.")
@click.option("--seed", type=int, help="The same seed gives the same file. Default: the clock's seconds.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: a new file in the inbox.")
@click.option("--held-out", is_flag=True, help="Puzzles that no training file ever holds. Default: into data/heldout.")
@click.pass_obj
def generate(session: Session, count: int, levels: str, seed: int | None, output: Path | None, held_out: bool) -> None:
    """Write a file of SYLLO puzzles, each with exactly one right answer.

    \b
    thirdshift train generate --count 1000 --levels 1-5
    thirdshift train generate --held-out --count 200 --levels 1-10
    """
    from thirdshift.apps.training import syllo  # noqa: PLC0415
    from thirdshift.apps.training.inbox.generator import DataGenerator  # noqa: PLC0415
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415

    chosen = _levels(levels)
    moment = int(time.time()) if seed is None else seed
    if output is None:
        workspace = TrainingWorkspace(session.workspace)
        workspace.create()
        if held_out:
            output = workspace.held_out / "syllo.jsonl"
    if output is None:
        path = DataGenerator(workspace.inbox).generate(count, seed=moment, levels=chosen)
    else:
        path = output
        syllo.write_jsonl(path, syllo.generate(count, seed=moment, levels=chosen, held_out=held_out))
    if session.as_json:
        print_json({"file": str(path), "rows": count, "levels": chosen, "seed": moment, "held_out": held_out})
    else:
        click.echo(f"{count:,} puzzles in {path}")


def _levels(text: str) -> tuple[int, ...]:
    """Return the levels that *text* names; which of them exist, the generator knows."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise click.UsageError(f"--levels {text!r} is no list of levels; write it like 3, 1-3 or 1,4,10")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _done_of(progress: Any) -> tuple[int, int]:
    """Return how much is done, of how much: steps, or percent."""
    return (int(100 * progress.share), 100) if progress.share else (progress.step, progress.total_steps)


def _pace(progress: Any) -> str:
    if not progress.step:
        return ""
    left = time.strftime("%H:%M:%S", time.gmtime(progress.eta_s))
    return f"loss {progress.loss:.4f}  {progress.tokens_per_s:,.0f} tokens/s  {left} left"


def _facts(result: Any) -> dict[str, str]:
    facts = {
        "rows": f"{result.rows:,} trained, {result.held_out_rows:,} held out",
        "steps": f"{result.total_steps:,} in {result.seconds:,.1f} s",
        "loss": f"{result.first_loss:.4f} at first, {result.last_loss:.4f} at last",
        "computed": f"{result.precision}, rows {result.layout}, {result.micro_batch_size} at once",
        "checkpoint": result.checkpoint,
    }
    if result.layout_why:
        facts["why not faster"] = result.layout_why
    for name, after in result.after.items():
        before = result.before[name]
        facts[f"exact match, {name}"] = f"{before.accuracy:.1%} before, {after.accuracy:.1%} after"
    if result.replay_rows:
        facts["replayed"] = f"{result.replay_rows:,} rows an epoch, of {', '.join(result.replayed)}"
    for key, after in result.earlier_after.items():
        before = result.earlier_before[key]
        facts[f"earlier, {key}"] = f"{before.accuracy:.1%} before, {after.accuracy:.1%} after"
    for missing in result.missing:
        facts["missing"] = missing
    return facts


_Show = Callable[[str, int, int, str], None]


@contextmanager
def _progress() -> Iterator[_Show]:
    """Give a function that shows phase, done, total and a remark on standard error: a bar, or a line now and then."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console  # noqa: PLC0415  # only terminals need it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[remark]}"))
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("starting", total=None, remark="")
        yield lambda phase, done, total, remark: bars.update(
            bar, description=phase, completed=done, total=total or None, remark=remark
        )


def _lines() -> _Show:
    last_phase, last_moment = "", -_LINE_EVERY_S

    def show(phase: str, done: int, total: int, remark: str) -> None:
        nonlocal last_phase, last_moment
        now = time.monotonic()
        if phase == last_phase and now - last_moment < _LINE_EVERY_S and not 0 < total <= done:
            return
        last_phase, last_moment = phase, now
        where = f" {done} of {total}" if total else ""
        click.echo(f"{phase}{where}  {remark}".rstrip(), err=True)

    return show
