"""Which tests run a line: measured once for a state of the sources and tests, then looked up for each mutant."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coverage import CoverageData
from tree import SOURCES, Tree

TESTS = (
    *("tests/engines", "tests/monitor", "tests/testing", "tests/torture/test_checker.py"),
    *(
        f"tests/spec/test_{name}.py"
        for name in (
            *("codec", "dependencies", "failures", "manager", "outcome", "pruning", "reference", "schedule_rules"),
            *("schedules", "small_rules", "status", "submission", "transactions", "waiting", "wakes"),
        )
    ),
)
"""Those that run the code in their own process. What only child processes run counts as not covered. Tests of threads
that are interrupted are left out: an exception raised into a thread can end its tracer instead."""
_ENGINE = "src/thirdshift/engines/sqlite"
_UNSEEN = {
    "src/thirdshift/core/health.py": "tests/spec/test_small_rules.py",
    "src/thirdshift/core/task.py": "tests/spec/test_small_rules.py",
    f"{_ENGINE}/dangers.py": "tests/cli/test_doctor.py",
    f"{_ENGINE}/leftovers.py": "tests/cli/test_doctor.py",
    f"{_ENGINE}/deaths.py": "tests/spec/test_worker.py::test_a_dead_workers_tasks_run_again_at_once",
    f"{_ENGINE}/checkpoint.py": "tests/crash/test_frozen_checkpointer.py",
}
"""What only child processes run, and what dataclasses generate, which has no line."""
_UNSEEN_S = 20.0
_LIMIT_S = 3600


@dataclass(frozen=True, kw_only=True)
class Covering:
    """The measured map."""

    took_s: dict[str, float]
    tests: dict[str, dict[int, list[str]]]
    """By module and line; the lines that run while a module is imported belong to no test."""
    breadth: Mapping[str, int]
    """How many lines each test runs."""
    unseen: Mapping[str, Sequence[str]]
    """Tests of a module that the map cannot know."""

    def of(self, module: str, line: int, first_line: int, budget_s: float) -> list[str]:
        """Return tests that run *line*, as many as take *budget_s*: quick ones, then those that run little else.

        A line that only the import runs is checked by the tests that run anything else in its module.
        """
        lines = self.tests.get(module, {})
        found = set(lines.get(line, ())) or set(lines.get(first_line, ()))
        if not found:
            found = {test for tests in lines.values() for test in tests}
        quick = sorted(found, key=lambda test: (self.took_s[test], test))
        special = sorted(found, key=lambda test: (self.breadth[test], test))
        chosen: dict[str, None] = {}
        for tests, until_s in ((quick, budget_s / 2), (special, budget_s)):
            for test in tests:
                if not chosen or sum(self.took_s[each] for each in chosen) + self.took_s[test] <= until_s:
                    chosen[test] = None
        return [*chosen, *self.unseen.get(module, ())]


def measure(tree: Tree, folder: Path) -> Covering:
    """Run the tests under coverage in *tree*, unless *folder* has what they said of the same files."""
    state = hashlib.sha256()
    for path in sorted(tree.path.glob("src/**/*.*")) + sorted(tree.path.glob("tests/**/*.py")):
        name = path.relative_to(tree.path)
        if path.suffix in {".py", ".sql"} and "mutants" not in name.parts:
            state.update(name.as_posix().encode() + b"\0" + path.read_bytes())
    data = folder / f"coverage-{state.hexdigest()[:16]}"
    if not (data / "whole").exists():
        data.mkdir(parents=True, exist_ok=True)
        print("running the tests once, to learn which lines each runs ...", file=sys.stderr)
        _record(tree, data)
        (data / "whole").touch()
    return _read(tree, data)


def _record(tree: Tree, data: Path) -> None:
    for old in data.glob("*-*"):
        old.unlink()
    environment = {
        **tree.environment(),
        "MUTANTS_COVERAGE": str(data.resolve()),
        "MUTANTS_SOURCES": os.pathsep.join(str(tree.path / source) for source in SOURCES),
        "PYTHONPATH": os.pathsep.join((str(tree.path / "src"), str(Path(__file__).parent))),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "coverage_plugin", "-m", "not training and not alone"]
    command += ["--numprocesses=2", "--dist=worksteal", "--timeout=120", "-p", "no:cacheprovider", *TESTS]
    # Tests that fail under coverage, which slows them down, are not used; the others are.
    subprocess.run(command, cwd=tree.path, env=environment, timeout=_LIMIT_S, check=False, stdout=sys.stderr)


def _read(tree: Tree, data: Path) -> Covering:
    took_s: dict[str, float] = {}
    for path in data.glob("took-*.json"):
        took_s |= json.loads(path.read_text())
    tests: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in data.glob("lines-*"):
        lines = CoverageData(str(path))
        lines.read()
        for file in lines.measured_files():
            _, _, module = file.rpartition("/src/thirdshift/")
            for line, contexts in lines.contexts_by_lineno(file).items():
                tests[f"src/thirdshift/{module}"][line].update(test for test in contexts if test in took_s)
    breadth = Counter(test for lines in tests.values() for found in lines.values() for test in found)
    children = {module: [test] for module, test in _UNSEEN.items()}
    took_s |= dict.fromkeys(_UNSEEN.values(), _UNSEEN_S)
    return Covering(
        breadth=breadth,
        unseen=children,
        took_s=took_s,
        tests={module: {line: sorted(found) for line, found in lines.items()} for module, lines in tests.items()},
    )
