"""``thirdshift up``: everything for one workspace in one process, a worker and the training daemon."""

import logging
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path

import click

from thirdshift.cli.narrator import LogNarrator, Narrator
from thirdshift.cli.output import Session
from thirdshift.cli.running import prepare, start_worker
from thirdshift.config import BackgroundTaskConfig, load_section, load_settings
from thirdshift.core.errors import ConfigurationError

_LOG_BYTES = 10_000_000
_LOG_FILES = 3


@click.command()
@click.option("--until-idle", is_flag=True, help="Fill the inbox once, train everything, and end.")
@click.option(
    "--max-workers", type=click.IntRange(1), help="Tasks of other queues that run at once.  [default: configuration, 4]"
)
@click.option(
    "--app-dir", type=click.Path(path_type=Path), default=".", help="Folder to import tasks from.  [default: .]"
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Write log lines of all loggers to standard error in place of the story; json: nothing but JSON lines.",
)
@click.pass_obj
def up(session: Session, until_idle: bool, max_workers: int | None, app_dir: Path, log_format: str | None) -> int:
    """Run everything for this workspace: a worker for background tasks, and the training daemon.

    Drop JSONL files into inbox/ and they are trained one after another. Stop with Ctrl-C or SIGTERM: training stops
    after the batch with a checkpoint, and the next start goes on from there. A second Ctrl-C stops at once.

    \b
    thirdshift --workspace ~/shift up
    thirdshift --workspace ~/shift up --until-idle
    thirdshift --workspace ~/shift up --log-format json
    """
    from thirdshift.apps.training.service.daemon import QUEUES, TrainingDaemon  # noqa: PLC0415  # --help must not wait for it

    prepare(app_dir)
    settings = _settings(session.workspace)
    _demand_training_extra()
    narrator = Narrator(session.workspace) if log_format is None else LogNarrator(session.workspace)
    daemon = TrainingDaemon(session.workspace, until_idle=until_idle, notify=narrator.tell)
    with daemon.instance():
        _log_to(session.workspace / "logs" / "thirdshift.log", settings.log_level)
        if log_format is not None:
            from thirdshift.runtime.lines import show_lines  # noqa: PLC0415  # few need it

            show_lines(log_format, settings.log_level)
        narrator.open(session.database)
        worker = start_worker(
            settings, session.database, workspace=session.workspace, excluded_queues=QUEUES, max_workers=max_workers
        )
        with narrator, worker as manager:
            return daemon.run(beside=[manager])


def _settings(workspace: Path) -> BackgroundTaskConfig:
    """Return the top level of the configuration; raises ``ConfigurationError`` with the problems of all sections."""
    from thirdshift.apps.training.config import DaemonConfig  # noqa: PLC0415

    problems: list[str] = []
    for load in (partial(load_settings, workspace), partial(load_section, workspace, "training", DaemonConfig)):
        try:
            load()
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(list(dict.fromkeys(problems)))
    return load_settings(workspace)


def _demand_training_extra() -> None:
    from importlib.util import find_spec  # noqa: PLC0415

    missing = [name for name in ("torch", "transformers", "safetensors", "numpy") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            [f"training needs {', '.join(missing)}; install the extra: pip install 'thirdshift[training]'"]
        )


def _log_to(path: Path, level: str) -> None:
    """Write log lines to *path*; what people should see on the terminal is the narrator's affair."""
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("thirdshift")
    root.addHandler(handler)
    root.setLevel(level)
