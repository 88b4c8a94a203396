"""``thirdshift torture``: break the engine in every way we know, and see that its promises hold."""

import logging
from collections.abc import Sequence
from pathlib import Path

import click

from thirdshift.cli.output import Session, print_json, print_table
from thirdshift.core.errors import UsageError
from thirdshift.testing.torture.harness import Harness
from thirdshift.testing.torture.harnesses import all_harnesses
from thirdshift.testing.torture.session import Torture


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("torture"),
    show_default=True,
    help="Folder for the report and the state: run again with the same one to go on.",
)
@click.option("--minutes", type=click.FloatRange(0), default=5.0, show_default=True, help="How long to go on.")
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed makes other cases.")
@click.option("--only", multiple=True, metavar="HARNESS", help="Only this harness; may be given more than once.")
@click.option("--case", metavar="HARNESS:NUMBER", help="Make one case again, and show what happens in it.")
@click.option("--list", "is_list", is_flag=True, help="List the harnesses.")
@click.pass_obj
def torture(
    session: Session, output: Path, minutes: float, seed: int, only: tuple[str, ...], case: str | None, is_list: bool
) -> int:
    """Break the engine in every way we know, and judge what is left by what was promised.

    Works on stores of its own, never on yours. First every harness must find the faults that are planted for it; then
    all take turns. Exits 0 when every promise held and every planted fault was found, 1 when not.

    \b
    thirdshift torture --minutes 60                 an hour; run it again to go on
    thirdshift torture --only simulation --seed 7
    thirdshift torture --case simulation:4711       one case again, with all that happens
    """
    logging.disable()  # what is broken on purpose is no news
    harnesses = all_harnesses()
    if is_list:
        return _list(session, harnesses)
    work = Torture(output, seed, _chosen(harnesses, only), lambda line: click.echo(line, err=True))
    if case is not None:
        return _one(session, work, harnesses, case)
    work.run(minutes * 60)
    if session.as_json:
        print_json(work.report())
    else:
        click.echo(work.markdown())
    return 0 if work.is_clean else 1


def _list(session: Session, harnesses: Sequence[Harness]) -> int:
    if session.as_json:
        print_json(
            [
                {"name": each.name, "what": each.what, "controls": list(each.controls), "why_not": each.why_not()}
                for each in harnesses
            ]
        )
    else:
        print_table(
            ["harness", "what it does", "planted faults"],
            [[each.name, each.what, ", ".join(each.controls)] for each in harnesses],
        )
    return 0


def _chosen(harnesses: Sequence[Harness], only: Sequence[str]) -> list[Harness]:
    return list(harnesses) if not only else [_named(harnesses, name) for name in only]


def _named(harnesses: Sequence[Harness], name: str) -> Harness:
    for harness in harnesses:
        if harness.name == name:
            return harness
    raise UsageError(f"there is no harness {name!r}; there are: {', '.join(each.name for each in harnesses)}")


def _one(session: Session, work: Torture, harnesses: Sequence[Harness], case: str) -> int:
    name, _, number = case.partition(":")
    harness = _named(harnesses, name)
    if not number.isdecimal():
        raise UsageError(f"--case was given {case!r}; it is a harness and a number, such as {name}:17")
    reason = harness.why_not()
    if reason is not None:
        raise UsageError(f"{name} cannot work here: {reason}")
    verdict = work.judge_one(harness, int(number))
    found = [f"{violation.invariant}: {violation.text}" for violation in verdict.violations]
    if session.as_json:
        print_json({"story": list(verdict.story), "figures": dict(verdict.figures), "violations": found})
    else:
        for line in verdict.story:
            click.echo(line)
        click.echo("\n".join(found) or "0 violations")
    return 1 if found else 0
