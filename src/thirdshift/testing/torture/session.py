"""One torture: its harnesses in turn, a state file from which it goes on, and its report."""

import json
import platform
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thirdshift.core.errors import UsageError
from thirdshift.host.files import write_atomically
from thirdshift.testing.torture.harness import Bench, Harness, Verdict, first_violation, folder_in_memory

STATE = "state.json"
REPORT_JSON = "report.json"
REPORT_MARKDOWN = "report.md"
_MOST_EXAMPLES = 20
_LONGEST_SLICE_S = 30.0
_SHORTEST_SLICE_S = 1.0
_SLICES = 4
"""Every harness has its turn so often at least, so that an early end leaves none out."""

Tell = Callable[[str], None]


@dataclass(slots=True)
class Found:
    """What one harness has shown so far."""

    next_case: int = 0
    is_done: bool = False
    """There is no further case."""
    seconds: float = 0.0
    figures: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    """Cases with any."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """The first of them: the case's number, the invariants, and what was seen."""
    controls: dict[str, int | None] = field(default_factory=dict)
    """For each planted fault the case that found it first; ``None``: none did."""
    skipped: str | None = None
    """Why it cannot work on this machine."""

    @property
    def missed(self) -> list[str]:
        """The planted faults that it has not found."""
        return [fault for fault, case in self.controls.items() if case is None]

    def add(self, case: int, verdict: Verdict) -> None:
        """Take in what *case* has shown."""
        self.figures.update(verdict.figures)
        if verdict.violations:
            self.violations += 1
            if len(self.examples) < _MOST_EXAMPLES:
                texts = [f"{violation.invariant}: {violation.text}" for violation in verdict.violations[:5]]
                self.examples.append({"case": case, "violations": texts})

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON can say it."""
        return {
            "next_case": self.next_case,
            "is_done": self.is_done,
            "seconds": round(self.seconds, 1),
            "figures": dict(self.figures),
            "violations": self.violations,
            "examples": self.examples,
            "controls": self.controls,
            "skipped": self.skipped,
        }


class Torture:
    """The harnesses on one seed. What it has found lies in *output*; another one with the same seed goes on there."""

    def __init__(self, output: Path, seed: int, harnesses: Sequence[Harness], tell: Tell) -> None:
        self._output = output
        self._seed = seed
        self._harnesses = harnesses
        self._tell = tell
        self.found: dict[str, Found] = {}
        self._load()

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found, but every planted fault that was looked for."""
        return not any(found.violations or found.missed for found in self.found.values())

    def run(self, seconds: float) -> None:
        """Go on for so long, at least one case of each; the report is written in any case."""
        deadline = time.monotonic() + seconds
        try:
            able = [harness for harness in self._harnesses if self._is_able(harness)]
            for harness in able:
                self._look_for_faults(harness)
            with ExitStack() as stack:
                benches = [(harness, stack.enter_context(self._opened(harness, stack))) for harness in able]
                self._take_turns(benches, deadline)
        finally:
            self.save()

    def judge_one(self, harness: Harness, case: int) -> Verdict:
        """Make one case, whatever was found before; nothing of it is kept."""
        with ExitStack() as stack:
            return stack.enter_context(self._opened(harness, stack)).judge(case)

    def save(self) -> None:
        """Write the state and the report."""
        self._output.mkdir(parents=True, exist_ok=True)
        state = {"seed": self._seed, "harnesses": {name: found.as_json() for name, found in self.found.items()}}
        write_atomically(self._output / STATE, json.dumps(state, indent=1).encode())
        write_atomically(self._output / REPORT_JSON, json.dumps(self.report(), indent=1).encode())
        write_atomically(self._output / REPORT_MARKDOWN, self.markdown().encode())

    # Inside

    def _load(self) -> None:
        path = self._output / STATE
        if not path.exists():
            return
        state = json.loads(path.read_text("utf-8"))
        if state["seed"] != self._seed:
            raise UsageError(
                f"{self._output} holds a torture with --seed {state['seed']}, not {self._seed}. Go on with that seed, "
                "or choose another folder with --output."
            )
        for name, found in state["harnesses"].items():
            self.found[name] = Found(**{**found, "figures": Counter(found["figures"])})

    def _is_able(self, harness: Harness) -> bool:
        found = self.found.setdefault(harness.name, Found())
        found.skipped = harness.why_not()
        if found.skipped is not None:
            self._tell(f"{harness.name}: skipped, {found.skipped}")
        return found.skipped is None

    def _look_for_faults(self, harness: Harness) -> None:
        found = self.found[harness.name]
        for fault in harness.controls:
            if fault in found.controls:
                continue
            begun = time.monotonic()
            first = first_violation(harness, fault, self._seed)
            found.seconds += time.monotonic() - begun
            found.controls[fault] = None if first is None else first[0]
            how = "NOT FOUND" if first is None else f"found by case {first[0]}"
            self._tell(f"{harness.name}: planted fault ({fault}): {how}")
            self.save()

    def _opened(self, harness: Harness, stack: ExitStack) -> AbstractContextManager[Bench]:
        return harness.open(stack.enter_context(folder_in_memory()), self._output / "kept" / harness.name, self._seed)

    def _take_turns(self, benches: Sequence[tuple[Harness, Bench]], deadline: float) -> None:
        active = [(harness, bench) for harness, bench in benches if not self._is_over(harness, bench)]
        while active:  # everybody has one turn, however late it is
            turns = max(1, len(active) * _SLICES)
            slice_s = min(_LONGEST_SLICE_S, max(_SHORTEST_SLICE_S, (deadline - time.monotonic()) / turns))
            for harness, bench in active:
                self._take_turn(harness, bench, min(deadline, time.monotonic() + slice_s))
            if time.monotonic() >= deadline:
                return
            active = [(harness, bench) for harness, bench in active if not self._is_over(harness, bench)]

    def _is_over(self, harness: Harness, bench: Bench) -> bool:
        found = self.found[harness.name]
        found.is_done = bench.cases is not None and found.next_case >= bench.cases
        return found.is_done

    def _take_turn(self, harness: Harness, bench: Bench, until: float) -> None:
        found = self.found[harness.name]
        begun = time.monotonic()
        while not self._is_over(harness, bench):
            found.add(found.next_case, bench.judge(found.next_case))
            found.next_case += 1
            if time.monotonic() >= until:
                break
        found.seconds += time.monotonic() - begun
        self.save()
        figures = ", ".join(f"{count} {what}" for what, count in found.figures.items())
        self._tell(f"{harness.name}: {figures}; {found.violations} violations, {found.seconds:.0f} s")

    # The report

    def report(self) -> dict[str, Any]:
        """Return all that was found, and on what machine."""
        figures: Counter[str] = Counter()
        for found in self.found.values():
            figures.update(found.figures)
        return {
            "seed": self._seed,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "system": f"{platform.system()} {platform.release()}",
            "is_clean": self.is_clean,
            "seconds": round(sum(found.seconds for found in self.found.values()), 1),
            "violations": sum(found.violations for found in self.found.values()),
            "figures": dict(figures),
            "harnesses": {name: found.as_json() for name, found in self.found.items()},
        }

    def markdown(self) -> str:
        """Return the same for people."""
        report = self.report()
        machine = f"Python {report['python']}, SQLite {report['sqlite']}, {report['system']}"
        lines = [
            "# Torture",
            f"Seed {self._seed}, {machine}, {report['seconds']:.0f} s of work: **{report['violations']} violations**.",
            "",
            "| harness | what was done | seconds | violations | planted faults found |",
            "|---|---|--:|--:|--:|",
        ]
        for name, found in self.found.items():
            if found.skipped is not None:
                lines.append(f"| {name} | skipped: {found.skipped} | | | |")
                continue
            figures = ", ".join(f"{count:,} {what}" for what, count in found.figures.items())
            caught = f"{len(found.controls) - len(found.missed)} of {len(found.controls)}"
            ended = "; all there are" if found.is_done else ""
            lines.append(f"| {name} | {figures}{ended} | {found.seconds:.0f} | {found.violations} | {caught} |")
        for name, found in self.found.items():
            lines += [f"\n{name} does not find the planted fault: {fault}" for fault in found.missed]
            for example in found.examples:
                lines += ["", f"## {name}, case {example['case']}", ""]
                lines += [f"    thirdshift torture --seed {self._seed} --case {name}:{example['case']}", ""]
                lines += [f"- {text}" for text in example["violations"]]
        return "\n".join(lines) + "\n"
