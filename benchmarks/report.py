"""What a person and a program read: a table, JSON, Markdown, and the facts of the machine."""

import datetime as dt
import importlib.metadata
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bars import Judge, Verdict, number
from bench import HERE, Bench, Figure, fsync_rate


def machine(folder: Path) -> dict[str, object]:
    """Return the facts of the machine that the figures depend on."""
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "filesystem": _said("stat", "-f", "-c", "%T", str(folder)),
        "fsync_per_s": round(fsync_rate(folder)),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "huey": _version("huey"),
        "celery": _version("celery"),
        "redis-server": _said("redis-server", "--version"),
    }


def line_of_machine(facts: dict[str, object]) -> str:
    """Return the facts that matter most in one line."""
    return (
        f"{facts['at']}, {facts['commit']}: {facts['cores']} cores, load {facts['load']}, {facts['filesystem']}, "
        f"{facts['fsync_per_s']:,} fsync/s, Python {facts['python']}, SQLite {facts['sqlite']}"
    )


def print_figure(figure: Figure) -> None:
    """Print one figure as soon as it is measured."""
    print(f"  {figure.case:<40} {figure.who:<34} {_median(figure):>16}   {_spread(figure)}", file=sys.stderr)


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print each bar beside its figure."""
    width = max((len(verdict.what) for verdict in verdicts), default=0)
    for each in verdicts:
        goal = f" (goal {each.goal})" if each.goal else ""
        print(f"  {each.what:<{width}} {each.figure:>16}   {each.bar + goal:<36} {each.verdict}", file=sys.stderr)


def document(bench: Bench, facts: dict[str, object]) -> dict[str, object]:
    """Return everything as one JSON document."""
    verdicts = Judge(bench.figures).verdicts()
    return {
        "machine": facts,
        "quick": bench.quick,
        "rounds": bench.rounds,
        "figures": [
            {
                "case": figure.case,
                "who": figure.who,
                "unit": figure.unit,
                "median": figure.median,
                "lowest": min(figure.samples),
                "highest": max(figure.samples),
                "p99": figure.p99 if _is_latency(figure) else None,
                "samples": list(figure.samples),
            }
            for figure in bench.figures
        ],
        "bars": [vars(verdict) for verdict in verdicts],
        "met": sum(each.verdict == "met" for each in verdicts),
        "missed": sum(each.verdict == "missed" for each in verdicts),
        "bars_skipped": sum(each.verdict.startswith("skipped") for each in verdicts),
        "skipped": bench.skipped,
        "skipped_count": len(bench.skipped),
    }


def markdown(bench: Bench, facts: dict[str, object]) -> str:
    """Return two tables for ``LOG.md`` or the README: the bars, and all figures."""
    lines = [line_of_machine(facts), "", "| what | figure | bar | goal | |", "|---|--:|--:|--:|---|"]
    lines += [
        f"| {each.what} | {each.figure} | {each.bar} | {each.goal} | {each.verdict} |"
        for each in Judge(bench.figures).verdicts()
    ]
    lines += ["", "| case | who | median | |", "|---|---|--:|---|"]
    lines += [f"| {each.case} | {each.who} | {_median(each)} | {_spread(each)} |" for each in bench.figures]
    if bench.skipped:
        lines += ["", *(f"Skipped: {what}: {reason}." for what, reason in bench.skipped.items())]
    return "\n".join(lines)


def _median(figure: Figure) -> str:
    return f"{number(figure.median)} {figure.unit}"


def _spread(figure: Figure) -> str:
    if _is_latency(figure):
        return f"p99 {number(figure.p99)}, lowest {number(min(figure.samples))}, n = {len(figure.samples)}"
    return f"{number(min(figure.samples))} to {number(max(figure.samples))}, n = {len(figure.samples)}"


def _is_latency(figure: Figure) -> bool:
    return len(figure.samples) >= 30


def _commit() -> str | None:
    git = ("git", "--no-optional-locks", "-C", str(HERE))
    name = _said(*git, "rev-parse", "--short", "HEAD")
    changed = _said(*git, "status", "--porcelain", "--untracked-files=no")
    return f"{name} with changes" if name and changed else name


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _said(program: str, *arguments: str) -> str | None:
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
