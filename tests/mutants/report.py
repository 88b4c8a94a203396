"""The figures of a run: with all mutants, and without those that are known to change nothing."""

import json
from collections import Counter, defaultdict
from pathlib import Path

_EQUIVALENT = Path(__file__).with_name("equivalent.json")
_KILLED = ("killed", "timeout")
BAR = 0.85


def report(results: list[dict[str, object]], folder: Path, seed: int) -> int:
    """Write report.md and report.json, print the first; returns 0 when the bar is met."""
    known = json.loads(_EQUIVALENT.read_text())
    reasons = {(each["module"], each["before"], each["after"]): each["reason"] for each in known}
    for result in results:
        reason = reasons.get((result["module"], result["before"], result["after"]))
        result["equivalent"] = reason if result["outcome"] not in _KILLED else None
    modules: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        modules[str(result["module"]).removeprefix("src/thirdshift/")][_word(result)] += 1
    total = sum(modules.values(), Counter())
    controls = Counter(result["control"] for result in results if result["control"])
    text = "\n".join(
        [
            f"# Mutants of the core and the SQLite engine: {len(results)}, seed {seed}",
            "",
            f"Killed: {_share(total, 'raw')} of all; {_share(total, 'net')} of those that change anything (the",
            f"{total['equivalent']} others are listed with the reason). Bar: {BAR:.0%}. Controls, the same tests",
            f"without a mutant: {controls['survived']} passed, {controls.total() - controls['survived']} failed.",
            "",
            "| module | mutants | killed | timeout | survived | not covered | equivalent | of all | net |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
            *(_row(module, counts) for module, counts in sorted(modules.items())),
            _row("**all**", total),
            "",
            "## Survivors",
            *(_survivor(each) for each in results if _word(each) in {"survived", "uncovered"}),
            "",
            "## Equivalent",
            *(f"{_survivor(each)}: {each['equivalent']}" for each in results if each["equivalent"]),
            "",
        ]
    )
    (folder / "report.md").write_text(text)
    (folder / "report.json").write_text(json.dumps({"seed": seed, "total": total, "results": results}, indent=1))
    print(text)
    return 0 if _ratio(total, "net") >= BAR and controls.total() == controls["survived"] else 1


def _word(result: dict[str, object]) -> str:
    return "equivalent" if result["equivalent"] else str(result["outcome"])


def _ratio(counts: Counter[str], kind: str) -> float:
    killed = counts["killed"] + counts["timeout"]
    of = counts.total() - (counts["equivalent"] if kind == "net" else 0)
    return killed / of if of else 1.0


def _share(counts: Counter[str], kind: str) -> str:
    return f"{_ratio(counts, kind):.1%}"


def _row(name: str, counts: Counter[str]) -> str:
    numbers = (counts[word] for word in ("killed", "timeout", "survived", "uncovered", "equivalent"))
    cells = [name, counts.total(), *numbers, _share(counts, "raw"), _share(counts, "net")]
    return "| " + " | ".join(map(str, cells)) + " |"


def _survivor(result: dict[str, object]) -> str:
    module = str(result["module"]).removeprefix("src/thirdshift/")
    return f"- `{module}:{result['line']}` `{result['before']}` -> `{result['after']}`"
