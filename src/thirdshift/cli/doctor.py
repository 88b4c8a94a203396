"""``thirdshift doctor``: all that ``health`` looks at, and what may do harm one day."""

import sys
from pathlib import Path

import click

from thirdshift.cli.health import report
from thirdshift.cli.output import Session
from thirdshift.core.health import HealthLimits


@click.command()
@click.option("--database", type=click.Path(dir_okay=False, path_type=Path), help="Default: the workspace's.")
@click.option(
    "--app-dir", type=click.Path(path_type=Path), default=".", help="Folder to import tasks from.  [default: .]"
)
@click.option(
    "--check-seconds",
    type=click.FloatRange(0, min_open=True),
    help=f"Longest check of the whole file.  [default: {HealthLimits().check_s:g}]",
)
@click.pass_obj
def doctor(session: Session, database: Path | None, app_dir: Path, check_seconds: float | None) -> int:
    """Look for what is wrong and for what may do harm one day; each finding says what to do.

    Beyond `health --level complete`: the file system (nothing is opened on that of another machine, and this alone is
    told), the SQLite library, other programs that have the file open, who may read it, free
    space inside it, the clock, dead workers, their locks and children, and whether the functions of all unfinished
    tasks can be imported (their modules are).
    Exits 0 when all is well, 1 when not, 69 when the store is unavailable.

    \b
    thirdshift doctor
    thirdshift doctor --app-dir src
    thirdshift --json doctor | jq '.findings[] | select(.healthy | not)'
    """
    sys.path.insert(0, str(app_dir.absolute()))
    return report(session, database, "doctor", HealthLimits(), check_seconds)
