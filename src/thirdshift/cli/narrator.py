"""The story of a running daemon: a live bar for people, plain lines in a pipe."""

import logging
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from thirdshift.apps.training.job import FileResult
from thirdshift.apps.training.notices import (
    ChoreFailed,
    FileAccepted,
    FileRecovered,
    FileRefused,
    Notice,
    Remarked,
    SnapshotTaken,
    TrainingFinished,
    TrainingInterrupted,
    TrainingProgressed,
    TrainingStarted,
)

_LINE_INTERVAL_S = 5.0
_logger = logging.getLogger("thirdshift.cli")


class _Console(Console):
    """A console for a daemon, which goes on when nobody reads its story any more."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Narrator:
    """Tells notices on standard error. Used from the daemon's loop alone."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._console = _Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._phase = ""
        self._next_line = 0.0

    def open(self, database: Path) -> None:
        """Say where everything is and how to stop."""
        self._say(f"workspace  {self._workspace}")
        self._say(f"database   {database}")
        self._say(f"inbox      {self._workspace / 'inbox'}   drop JSONL files here")
        self._say("stop       Ctrl-C (after the batch, with a checkpoint); Ctrl-C twice stops at once")
        self._say(f"look       thirdshift --workspace {self._workspace} status")

    def tell(self, notice: Notice) -> None:
        """Tell one notice."""
        match notice:
            case TrainingProgressed(name, progress):
                self._progress(name, progress)
                return
            case TrainingFinished(name, result, checkpoint):
                self._finish(name, result, checkpoint)
            case TrainingStarted(name):
                self._phase = ""
                self._line(f"training {name}")
            case _:
                self._line(_words(notice, self._workspace))

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        self._line("stopped")

    def _progress(self, name: str, progress: dict[str, Any]) -> None:
        if self._console.is_terminal:
            self._move_bar(name, progress)
            return
        now = time.monotonic()
        goes_on = progress["phase"] == "training" or progress["share"] > 0
        if progress["phase"] != self._phase or (goes_on and now >= self._next_line):
            self._phase = progress["phase"]
            self._next_line = now + _LINE_INTERVAL_S
            self._line(f"{name}: {_facts(progress)}")

    def _move_bar(self, name: str, progress: dict[str, Any]) -> None:
        if self._bar is None:
            self._bar = self._bars.add_task(name, facts="")
        done, total = (progress["step"], progress["total_steps"]) if progress["total_steps"] else (progress["share"], 1)
        self._bars.update(self._bar, description=name, completed=done, total=total, facts=_facts(progress))

    def _finish(self, name: str, result: FileResult, checkpoint: Path) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None
        self._line(_trained(name, result))
        self._line(f"  exact match {result.accuracy_before:.1%} -> {result.accuracy_after:.1%} on held-out rows")
        for examination, after in result.after.items():
            before = result.before[examination]
            levels = ", ".join(
                f"level {level} {_share(before.by_level.get(level))} -> {_share(right)}"
                for level, right in sorted(after.by_level.items())
            )
            words = f"    {examination}: {before.accuracy:.1%} -> {after.accuracy:.1%} of {after.asked}"
            self._line(f"{words} ({levels})" if levels else words)
        for key, after in result.earlier_after.items():
            self._line(f"    earlier {key}: {result.earlier_before[key].accuracy:.1%} -> {after.accuracy:.1%}")
        if result.replay_rows:
            self._line(f"  replayed {result.replay_rows} rows an epoch of {len(result.replayed)} earlier files")
        for missing in result.missing:
            self._line(f"  missing: {missing}")
        self._line(f"  checkpoint {_short(checkpoint, self._workspace)}, model models/current_model")

    def _line(self, text: str) -> None:
        self._say(f"{datetime.now().astimezone():%H:%M:%S}  {text}")

    def _say(self, text: str) -> None:
        self._console.print(text.encode("utf-8", "backslashreplace").decode(), markup=False)


class LogNarrator:
    """Tells notices as log lines. Used from the daemon's loop alone."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._phase = ""

    def open(self, database: Path) -> None:
        """Say where everything is."""
        _logger.info("workspace %s, database %s", self._workspace, database)

    def tell(self, notice: Notice) -> None:
        """Log one notice; of the progress, each new phase."""
        match notice:
            case TrainingProgressed(name, progress):
                if progress["phase"] != self._phase:
                    self._phase = progress["phase"]
                    _logger.info("%s: %s", name, _facts(progress))
            case TrainingStarted(name):
                self._phase = ""
                _logger.info("training %s", name)
            case TrainingFinished(name, result, checkpoint):
                _logger.info("%s, checkpoint %s", _trained(name, result), _short(checkpoint, self._workspace))
            case _:
                _logger.info("%s", _words(notice, self._workspace))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _logger.info("stopped")


def _trained(name: str, result: FileResult) -> str:
    return (
        f"trained {name}: {result.rows} rows, {result.total_steps} steps in {result.seconds:.0f} s, "
        f"loss {result.first_loss:.3f} -> {result.last_loss:.3f}"
    )


def _words(notice: Notice, workspace: Path) -> str:
    match notice:
        case FileAccepted(name, rows):
            return f"queued {name}, {rows} rows"
        case FileRefused(name, cause, path):
            return f"refused {name}: {cause}; see {_short(path, workspace)}.report.json"
        case FileRecovered(name, finished):
            return f"recovered {name}: " + ("its end is completed" if finished else "it goes on where it was")
        case TrainingInterrupted(name):
            return f"laid aside {name}: a checkpoint is saved, the next start goes on from there"
        case SnapshotTaken(path):
            return f"snapshot {_short(path, workspace)}, verified"
        case ChoreFailed(name, error):
            return f"{name} failed: {error}"
        case Remarked(text):
            return text
        case _:
            return str(notice)


def _facts(progress: dict[str, Any]) -> str:
    if progress["phase"] != "training" or not progress["step"]:
        return f"{progress['phase']}, {progress['share']:.0%}" if progress["share"] else str(progress["phase"])
    return (
        f"step {progress['step']}/{progress['total_steps']}, loss {float(progress['loss']):.3f}, "
        f"{float(progress['tokens_per_s']):,.0f} tokens/s, ETA {float(progress['eta_s']):.0f} s"
    )


def _share(right_of_asked: tuple[int, int] | None) -> str:
    if not right_of_asked or not right_of_asked[1]:
        return "-"
    return f"{right_of_asked[0] / right_of_asked[1]:.0%}"


def _short(path: Path, workspace: Path) -> str:
    return str(path.relative_to(workspace)) if path.is_relative_to(workspace) else str(path)
