"""The report as one page to look at: no script, no font, no picture from elsewhere. Every name in it is escaped."""

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from thirdshift.apps.training.records.chart import shortened
from thirdshift.apps.training.records.history import FAILED, HELD_BACK
from thirdshift.apps.training.records.report import Report
from thirdshift.host.files import make_folders, write_atomically

FILES_ON_THE_PAGE = 200
FILES_IN_THE_MATRIX = 12
PAGE = "report.html"
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2.2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}
th:first-child,td:first-child{text-align:left}.words{white-space:normal;text-align:left}
.bad{color:#c0392b;font-weight:600}.dim{opacity:.65}svg{width:100%;height:auto}
@media(prefers-color-scheme:dark){.bad{color:#ff8a7a}}
"""


def write_report(report: Report, folder: Path) -> Path:
    """Write page, curves and CSV files into *folder*, each as one step; returns the page."""
    make_folders(folder)
    contents = {
        "loss.svg": report.loss_chart().svg(),
        "exact_match.svg": report.match_chart().svg(),
        "loss.csv": report.loss_csv(),
        "exact_match.csv": report.match_csv(),
        PAGE: page_of(report),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content.encode(errors="backslashreplace"))
    return folder / PAGE


def page_of(report: Report) -> str:
    """Return the page."""
    document = report.document()
    body = "".join(_parts(report, document))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Training report</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _parts(report: Report, document: Mapping[str, Any]) -> Iterator[str]:
    totals = document["totals"]
    yield "<h1>Training report</h1>"
    if not document["files"]:
        yield "<p>No training has ended yet.</p>"
        return
    yield (
        f"<p>{totals['published']:,} of {totals['files']:,} files are in the model: {totals['rows']:,} rows, "
        f"{totals['tokens']:,} tokens, {totals['seconds']:,.0f} seconds of training.</p>"
    )
    for name in document["damaged_records"]:
        yield f'<p class="bad">The record {escape(name)} is damaged: it is neither replayed nor examined any more.</p>'
    yield from _stopped(document)
    if report.trained:
        yield f"<h2>Exact match</h2>{report.match_chart().svg()}<h2>Loss</h2>{report.loss_chart().svg()}"
    yield from _matrix(document)
    yield from _table(document)


def _stopped(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files that are not in the model, and why."""
    stopped = [line for line in document["files"] if line["outcome"] in (HELD_BACK, FAILED)]
    if not stopped:
        return
    yield '<h2>Held back and failed</h2><div class="wide"><table>'
    yield "<tr><th>file</th><th>outcome</th><th class=words>why</th></tr>"
    for line in reversed(stopped[-FILES_ON_THE_PAGE:]):
        why = "; ".join(line["causes"])
        yield _row(line["file"], line["outcome"], words=why)
    yield "</table></div><p class=dim>'thirdshift train accept FILE' lets one pass that was held back.</p>"


def _matrix(document: Mapping[str, Any]) -> Iterator[str]:
    rows = document["forgetting"][-FILES_IN_THE_MATRIX:]
    columns = [row for row in rows if any(row["key"] in other["exact_match"] for other in rows)]
    if len(rows) < 2:
        return
    yield "<h2>What the model knows of earlier files</h2><p class=dim>A row is the model after a file; a column is "
    yield "the examination of a file, questions that were never trained. The diagonal is the file itself.</p>"
    yield '<div class="wide"><table><tr><th>after</th>'
    yield from (f"<th>{escape(shortened(column['file'], 16))}</th>" for column in columns)
    yield "</tr>"
    for row in rows:
        held = " (held back)" if row["outcome"] == HELD_BACK else ""
        yield f"<tr><td>{escape(shortened(row['file'], 28))}{held}</td>"
        yield from (_cell(row["exact_match"].get(column["key"])) for column in columns)
        yield "</tr>"
    yield "</table></div>"


def _cell(share: float | None) -> str:
    if share is None:
        return "<td></td>"
    return f'<td style="background:rgba(61,154,97,{0.65 * share:.2f})">{share:.1%}</td>'


def _table(document: Mapping[str, Any]) -> Iterator[str]:
    files = document["files"]
    columns = ("file", "outcome", "rows", "replayed", "exact match", "earlier files", "loss", "seconds", "attempts")
    yield '<h2>All files</h2><div class="wide"><table><tr>'
    yield from (f"<th>{name}</th>" for name in (*columns, "ended"))
    yield "</tr>"
    for line in reversed(files[-FILES_ON_THE_PAGE:]):
        ended = line["ended_at"][:19].replace("T", " ")
        if "rows" not in line:
            yield _row(line["file"], line["outcome"], "", "", "", "", "", "", str(line["attempts"]), ended)
            continue
        yield _row(
            line["file"],
            line["outcome"] + (", accepted" if line["is_accepted"] else ""),
            f"{line['rows']:,}",
            f"{line['replay_rows']:,}",
            f"{line['accuracy_before']:.1%} → {line['accuracy_after']:.1%}",
            _change(line["earlier_before"], line["earlier_after"]),
            f"{line['first_loss']:.3f} → {line['last_loss']:.3f}",
            f"{line['seconds']:,.1f}",
            str(line["attempts"]),
            ended,
        )
    yield "</table></div>"
    if len(files) > FILES_ON_THE_PAGE:
        yield f"<p class=dim>The newest {FILES_ON_THE_PAGE} of {len(files):,}; the CSV files hold all.</p>"


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.1%} → {after:.1%}"


def _row(file: str, outcome: str, *cells: str, words: str | None = None) -> str:
    mark = ' class="bad"' if outcome in (HELD_BACK, FAILED) else ""
    name = escape(shortened(file, 48))
    rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    if words is not None:
        rest += f'<td class="words">{escape(words)}</td>'
    return f"<tr><td>{name}</td><td{mark}>{escape(outcome)}</td>{rest}</tr>"
