"""``thirdshift submit``: run a function in the background, from a shell."""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from thirdshift.cli.output import Session, print_json
from thirdshift.cli.store import opened
from thirdshift.cli.tasks import describe
from thirdshift.core.errors import NotImportable, UsageError
from thirdshift.core.status import TaskPriority, TaskStatus


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("arguments", nargs=-1, metavar="[ARGUMENT]...")
@click.option("--queue", help="The queue; default: as the function declares.")
@click.option("--name", help="The name for figures; default: the function's.")
@click.option(
    "--priority", type=click.Choice([each.name.lower() for each in TaskPriority]), default="normal", show_default=True
)
@click.option("--max-retries", type=click.IntRange(0), help="How often a failed attempt is repeated.  [default: 3]")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds after which an attempt is ended.")
@click.option("--pool", type=click.Choice(["thread", "process"]), help="Where it runs.")
@click.option("--tag", "tags", multiple=True, help="May repeat.")
@click.option("--after", multiple=True, metavar="ID", help="A task that has to complete first. May repeat.")
@click.option(
    "--after-any-outcome", multiple=True, metavar="ID", help="A task that has to end first, however. May repeat."
)
@click.option("--app-dir", type=click.Path(path_type=Path), default=".", help="Folder to import from.  [default: .]")
@click.option("--wait", is_flag=True, help="Wait for the end and print the result; exit 1 when it failed.")
@click.pass_obj
def submit(
    session: Session,
    function: str,
    arguments: tuple[str, ...],
    queue: str | None,
    name: str | None,
    priority: str,
    max_retries: int | None,
    timeout: float | None,
    pool: str | None,
    tags: tuple[str, ...],
    after: tuple[str, ...],
    after_any_outcome: tuple[str, ...],
    app_dir: Path,
    wait: bool,
) -> None:
    """Run MODULE:FUNCTION in the background with ARGUMENTs.

    An argument is JSON (12, true, "text", [1, 2]); one that is not JSON is taken as text. NAME=VALUE passes it by
    keyword. A worker of this workspace runs it: `thirdshift up`.

    \b
    thirdshift submit math:factorial 20 --wait
    thirdshift submit mypackage.mail:send a@example.org subject="Hello" --queue mail --priority high
    thirdshift submit mypackage.mail:tell --after 01a2014090b85ea87fe9b5cbd25f0723
    """
    sys.path.insert(0, str(app_dir.absolute()))
    target = find_function(function)
    args, kwargs = parse_arguments(arguments)
    with opened(session) as manager:
        handle = manager.options(
            name=name,
            queue=queue,
            priority=TaskPriority[priority.upper()],
            max_retries=max_retries,
            timeout=timeout,
            pool=pool,
            tags=tags,
            after=after,
            after_any_outcome=after_any_outcome,
        ).submit(target, *args, **kwargs)
        task = handle.wait() if wait else handle.task
    if session.as_json:
        print_json(describe(task))
    elif not wait:
        click.echo(task.id)
    elif task.status is TaskStatus.COMPLETED:
        click.echo(json.dumps(task.result, default=str))
    else:
        click.echo(f"{task.id} {task.status.value}: {task.error}", err=True)
    if wait and task.status is not TaskStatus.COMPLETED:
        raise click.exceptions.Exit(1)


def find_function(reference: str) -> Any:
    """Return what *reference* names; raises ``UsageError`` when it cannot be imported."""
    from thirdshift.core.reference import resolve  # noqa: PLC0415

    if ":" not in reference:
        raise UsageError(f"{reference!r} is not MODULE:FUNCTION, such as math:factorial")
    try:
        found = resolve(reference)
    except (ImportError, AttributeError) as error:
        raise NotImportable(reference, str(error), "Check the spelling, or name its folder with --app-dir.") from error
    except Exception as error:  # the module itself failed while it was imported
        what = "".join(traceback.format_exception_only(error)).strip()
        raise NotImportable(reference, what, "Importing its module must not fail: a worker does it too.") from error
    if not callable(found):
        raise UsageError(f"{reference} is {found!r}, not a function")
    return found


def parse_arguments(arguments: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    """Return positional and keyword arguments: JSON where they are, else text; NAME=VALUE is a keyword."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if separator and name.isidentifier():
            kwargs[name] = _value(value)
        else:
            args.append(_value(argument))
    return args, kwargs


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
