"""``thirdshift health``: whether all is well, as an exit code, and as findings that say what to do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from thirdshift.cli.output import Session, print_json
from thirdshift.config import load_settings
from thirdshift.core.errors import StoreError, StoreOnNetwork
from thirdshift.core.health import Finding, HealthCode, HealthLimits, is_healthy
from thirdshift.monitor.health import remedy, sentence


@click.command()
@click.option("--level", type=click.Choice(["minimal", "complete"]), default="minimal", show_default=True)
@click.option("--database", type=click.Path(dir_okay=False, path_type=Path), help="Default: the workspace's.")
@click.option(
    "--max-wait",
    type=click.FloatRange(0, min_open=True),
    help=f"Seconds that a runnable task may wait.  [default: {HealthLimits().oldest_task_s:g}]",
)
@click.option(
    "--check-seconds",
    type=click.FloatRange(0, min_open=True),
    help=f"Longest check of the whole file.  [default: {HealthLimits().check_s:g}]",
)
@click.pass_obj
def health(
    session: Session, level: str, database: Path | None, max_wait: float | None, check_seconds: float | None
) -> int:
    """Say whether all is well: exit 0 if so, 1 if not, 69 when the store is unavailable.

    minimal: the store answers and a worker is alive. complete: also the file's integrity, its log, what dead workers
    left, the oldest runnable task, the disk, and whether wake-ups reach the workers.

    \b
    thirdshift health
    thirdshift health --level complete --max-wait 300
    thirdshift --json health | jq -e .healthy
    """
    limits = HealthLimits()
    if max_wait is not None:
        limits = replace(limits, oldest_task_s=max_wait)
    return report(session, database, level, limits, check_seconds)


def report(
    session: Session, database: Path | None, level: str, limits: HealthLimits, check_seconds: float | None
) -> int:
    """Examine the store, print what was found and return the exit code; also for ``doctor``."""
    if check_seconds is not None:
        limits = replace(limits, check_s=check_seconds)
    path = session.database if database is None else database.absolute()
    try:
        findings = _examine(session, path, level, limits)
    except StoreError as error:
        if session.as_json:
            print_json({"healthy": False, "level": level, "database": str(path), "error": str(error), "findings": []})
        raise
    healthy = is_healthy(findings)
    if session.as_json:
        told = [_describe(finding) for finding in findings]
        print_json({"healthy": healthy, "level": level, "database": str(path), "error": None, "findings": told})
    else:
        for finding in findings:
            click.echo(_line(finding))
    return 0 if healthy else 1


def _examine(session: Session, path: Path, level: str, limits: HealthLimits) -> list[Finding]:
    from thirdshift import BackgroundTaskManager  # noqa: PLC0415  # --help must not wait for it

    if not path.exists():  # asking must not make it
        raise StoreError(f"{path} does not exist; start a worker, or name the file with --database or --workspace")
    settings = load_settings(session.workspace)
    aliases = settings.aliases if level == "doctor" else None  # their targets are looked for: code that may not be here
    try:
        with BackgroundTaskManager(database=path, start=False, pruning=settings.pruning, aliases=aliases) as manager:
            return list(manager.health(level, limits))
    except StoreOnNetwork as error:
        if level != "doctor":
            raise
        facts = {"type": error.file_system, "path": error.path}
        return [Finding(code=HealthCode.FILE_SYSTEM, is_healthy=False, facts=facts)]


def _describe(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.code.value,
        "healthy": finding.is_healthy,
        "says": sentence(finding),
        "do": remedy(finding),
        "facts": dict(finding.facts),
    }


def _line(finding: Finding) -> str:
    words = sentence(finding)
    return f"ok    {words}" if finding.is_healthy else f"NOT   {words}\n      {remedy(finding)}"
