"""``thirdshift tasks search``: tasks by the words of their names, arguments, tags, errors and results."""

from datetime import UTC, datetime

import click

from thirdshift.cli.output import Session, print_json, print_table
from thirdshift.cli.store import opened
from thirdshift.cli.upkeep import progress_line
from thirdshift.core.errors import UsageError
from thirdshift.core.search import MATCH_BEGINS, MATCH_ENDS, SearchState
from thirdshift.core.words import ago


@click.command()
@click.argument("words", nargs=-1)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Most tasks to list.")
@click.option("--rebuild", is_flag=True, help="Build the index anew first, from the tasks.")
@click.pass_obj
def search(session: Session, words: tuple[str, ...], limit: int, rebuild: bool) -> None:
    """Find tasks by WORDS in their name, arguments, tags, errors or results; the newest first.

    All words have to be there. error:timeout looks in errors only (also name, arguments, tags, result), '"two words"'
    for a phrase, 'invoi*' for a beginning. Workers keep the index up to date beside their work;
    monitoring.search_enabled in the configuration turns that off.

    \b
    thirdshift tasks search anna@example.org
    thirdshift tasks search error:timeout name:send
    thirdshift tasks search 'invoi*' '"not found"' --limit 100
    thirdshift tasks search --rebuild
    """
    if not words and not rebuild:
        raise UsageError("nothing to look for; give some words, or --rebuild")
    with opened(session) as manager:
        if rebuild:
            with progress_line("indexed") as report:
                manager.rebuild_search(report)
        found = manager.search_tasks(" ".join(words), limit) if words else []
        state = manager.search_state()
        tasks = [(match, task) for match in found if (task := manager.get_task(match.id)) is not None]
    if session.as_json:
        matches = [
            {"id": task.id, "name": task.name, "queue": task.queue, "status": task.status.value,
             "submitted_at": task.submitted_at, "excerpt": _plain(match.excerpt)}
            for match, task in tasks
        ]  # fmt: skip
        print_json({"matches": matches, "behind": {"tasks": state.tasks, "ends": state.ends}})
        return
    if words:
        now = datetime.now(UTC)
        rows = [
            (task.id, task.name, task.queue, task.status.value, ago(task.submitted_at, now), _plain(match.excerpt)[:80])
            for match, task in tasks
        ]
        print_table(("id", "name", "queue", "status", "submitted", "where"), rows)
    if not state.is_current:
        click.echo(_behind(state), err=True)


def _behind(state: SearchState) -> str:
    missing = f"{state.tasks:,} tasks and the ends of {state.ends:,} attempts are missing"
    return f"the index is behind: {missing}; ask again soon"


def _plain(excerpt: str) -> str:
    return " ".join(excerpt.replace(MATCH_BEGINS, "[").replace(MATCH_ENDS, "]").split())
