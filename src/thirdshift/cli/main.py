"""The entry of the command: global options, the verbs, and what an error means for the exit code."""

import contextlib
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from thirdshift import __version__
from thirdshift.cli.output import Session
from thirdshift.config import find_workspace
from thirdshift.core.errors import (
    AlreadyRunning,
    ConfigurationError,
    StoreError,
    ThirdshiftError,
    UsageError,
)

_VERBS = {
    "alerts": "alerts",
    "bench": "bench",
    "config": "config",
    "doctor": "doctor",
    "health": "health",
    "queues": "queues",
    "schedules": "schedules",
    "status": "status",
    "submit": "submit",
    "tasks": "tasks",
    "torture": "torture",
    "train": "train",
    "up": "up",
    "why": "why",
    "worker": "worker",
}
_EXIT_CODES: tuple[tuple[type[ThirdshiftError], int], ...] = (
    (UsageError, 64),
    (StoreError, 69),
    (AlreadyRunning, 75),
    (ConfigurationError, 78),
    (ThirdshiftError, 1),
)
_EXIT_USAGE = 64


class _LazyGroup(click.Group):
    """Imports a verb's file when the verb is used, so that ``status`` does not pay for ``up``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _VERBS:
            return None
        command: click.Command = getattr(import_module(f"thirdshift.cli.{_VERBS[cmd_name]}"), cmd_name)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--workspace",
    "--base-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with thirdshift.yaml and thirdshift.db. Default: $THIRDSHIFT_WORKSPACE or the current folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
@click.version_option(__version__, prog_name="thirdshift")
@click.pass_context
def cli(context: click.Context, workspace: Path | None, as_json: bool) -> None:
    """Durable background work, and a training daemon built on it.

    \b
    thirdshift up                                  run everything for this workspace
    thirdshift worker                              run background tasks only, in one more process
    thirdshift status                              what is going on
    thirdshift health                              whether all is well; the exit code says it
    thirdshift alerts                              what the monitor has found, now and before
    thirdshift submit mymodule:function 1 '"two"'  run a function in the background
    thirdshift tasks list --status failed          look at tasks
    thirdshift tasks retry --status failed         change many of them at once
    thirdshift schedules list                      what runs again and again, and when next
    thirdshift why ID                              why a task does not run
    thirdshift bench                               what this machine and disk give
    thirdshift config show                         every setting and where it comes from
    thirdshift train pause                         talk to the training daemon

    Exit codes: 0 done, 1 the work failed, 64 usage, 69 store unavailable, 75 already running, 78 configuration,
    130/143 after a second signal.
    """
    context.obj = Session(workspace=find_workspace() if workspace is None else workspace.absolute(), as_json=as_json)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and end the process with its exit code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code; errors are one message on standard error, never a traceback."""
    try:
        return _run(arguments)
    finally:
        _let_go_of_closed_streams()


def _let_go_of_closed_streams() -> None:
    """Throw away what nobody reads any more: else the interpreter tries once more at its end, and exits with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def _run(arguments: list[str] | None) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="thirdshift", standalone_mode=False)
    except click.Abort:
        return 130
    except click.UsageError as error:
        error.show()
        return _EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ThirdshiftError as error:
        click.echo(f"thirdshift: {error}", err=True)
        return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
    except OSError as error:  # a folder that cannot be made, a disk that cannot be read
        click.echo(f"thirdshift: {error}", err=True)
        return 1
    return result if isinstance(result, int) else 0
