"""``thirdshift why``: why a task does not run."""

from datetime import UTC, datetime

import click

from thirdshift.cli.output import Session, print_json
from thirdshift.cli.store import opened
from thirdshift.monitor.reasons import sentence


@click.command()
@click.argument("task_id")
@click.pass_obj
def why(session: Session, task_id: str) -> None:
    """Say why a task does not run, or how far it is; the most telling reason comes first.

    \b
    thirdshift why 01a2014090b85ea87fe9b5cbd25f0723
    thirdshift --json why 01a2014090b85ea87fe9b5cbd25f0723 | jq -r '.reasons[0].code'
    """
    with opened(session) as manager:
        reasons = manager.why(task_id)
    now = datetime.now(UTC)
    sentences = [sentence(reason, now) for reason in reasons]
    if session.as_json:
        pairs = zip(reasons, sentences, strict=True)
        told = [{"code": reason.code, "facts": reason.facts, "sentence": words} for reason, words in pairs]
        print_json({"id": task_id, "reasons": told})
        return
    for words in sentences:
        click.echo(words)
