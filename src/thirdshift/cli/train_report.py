"""``thirdshift train report``: progress over all files, as one page to look at."""

from pathlib import Path

import click

from thirdshift.cli.output import Session, print_json


@click.command()
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder. Default: the workspace's reports."
)
@click.pass_obj
def report(session: Session, output: Path | None) -> None:
    """Write report.html, with the curves inside it, and beside it the curves as SVG and CSV.

    The page needs no network and no script: exact match and loss over all files, what the model still knows of earlier
    ones, what was held back or failed and why. With --json the same is printed, and nothing is written.

    \b
    thirdshift train report
    thirdshift --json train report | jq .totals
    """
    from thirdshift.apps.training.records.history import History  # noqa: PLC0415
    from thirdshift.apps.training.records.report import Report  # noqa: PLC0415
    from thirdshift.apps.training.records.report_page import write_report  # noqa: PLC0415
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415

    workspace = TrainingWorkspace(session.workspace)
    found = Report(History(workspace.history))
    if session.as_json:
        print_json(found.document())
        return
    page = write_report(found, output.absolute() if output else workspace.reports)
    click.echo(f"{len(found.records):,} files in {page}; loss and exact_match beside it as .svg and .csv")
