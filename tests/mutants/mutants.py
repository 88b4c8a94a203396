"""``make mutants``: changes of the core and of the SQLite engine, one at a time; do the tests notice?

python tests/mutants/mutants.py --sample 300              300 mutants; run it again to go on where it was
python tests/mutants/mutants.py --sample 300 --again      those that survived once more, with the tests as they are now
python tests/mutants/mutants.py --only sqlite/writer.py   all mutants of one module

It needs minutes for a hundred mutants, and takes no processor time from anybody (SCHED_IDLE). The report lies in
``mutants/`` (``--output``): report.md and report.json; results.jsonl is where the next run goes on.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue

import trial
from covering import Covering, measure
from mutations import Mutant, draw
from report import report
from tree import ROOT, Tree, copy

_CONTROL_EVERY = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, metavar="N", help="how many mutants; default: all (many hours)")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws others; default: 1")
    parser.add_argument("--only", default="", metavar="TEXT", help="modules with TEXT in their path")
    parser.add_argument(
        "--budget", type=float, default=20, metavar="S", help="tests of S seconds for each; default: 20"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="at the same time; default: 1")
    parser.add_argument("--nice", type=int, metavar="N", help="run as nice as that, not only when nobody else would")
    parser.add_argument("--again", action="store_true", help="try again those that survived")
    parser.add_argument("--output", type=Path, default=ROOT / "mutants")
    options = parser.parse_args()
    if options.nice is not None:
        os.nice(options.nice)
    elif hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    options.output.mkdir(exist_ok=True)
    results = options.output / "results.jsonl"
    done = _read(results)
    mutants = draw(options.seed, options.sample, options.only)
    todo = [mutant for mutant in mutants if _is_open(done.get(mutant.key), options.again)]
    if todo:
        trees: SimpleQueue[Tree] = SimpleQueue()
        copies = [copy(options.output / f"tree-{number}") for number in range(options.jobs)]
        covering = measure(copies[0], options.output)
        for tree in copies:
            trees.put(tree)

        def one(mutant: Mutant) -> None:
            tree = trees.get()
            try:
                done[mutant.key] = _judged(mutant, covering, options.budget, tree)
            finally:
                trees.put(tree)
            with results.open("a") as file:
                file.write(json.dumps(done[mutant.key]) + "\n")
            _print(done[mutant.key], todo.index(mutant) + 1, len(todo))

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(one, todo))
    return report([done[mutant.key] for mutant in mutants], options.output, options.seed)


def _judged(mutant: Mutant, covering: Covering, budget_s: float, tree: Tree) -> dict[str, object]:
    tests = covering.of(mutant.module, mutant.line, mutant.function_line, budget_s)
    expected_s = sum(covering.took_s[test] for test in tests)
    control = None
    if tests and random.Random(mutant.key).randrange(_CONTROL_EVERY) == 0:
        # The same tests without the mutant: one that fails here would have been a false kill.
        control = trial.run(tests, expected_s, tree).outcome
    if tests:
        found = trial.attempt(mutant, tests, expected_s, tree)
    else:
        found = trial.Trial(outcome="uncovered", tests=0, seconds=0)
    before, after = _lines(mutant)
    facts = {"key": mutant.key, "module": mutant.module, "line": mutant.line, "operator": mutant.operator}
    return {**facts, "before": before, "after": after, "control": control, "at": time.time(), **asdict(found)}


def _lines(mutant: Mutant) -> tuple[str, str]:
    before, after = (ROOT / mutant.module).read_text().splitlines(), mutant.text().splitlines()
    changed = [number for number, lines in enumerate(zip(before, after, strict=False)) if lines[0] != lines[1]]
    number = changed[0] if changed else mutant.line - 1
    return before[number].strip(), after[number].strip()


def _is_open(result: dict[str, object] | None, again: bool) -> bool:
    return result is None or (again and result["outcome"] in {"survived", "uncovered"})


def _read(path: Path) -> dict[str, dict[str, object]]:
    lines: Iterable[str] = path.read_text().splitlines() if path.exists() else ()
    return {result["key"]: result for result in map(json.loads, lines)}


def _print(result: dict[str, object], number: int, count: int) -> None:
    where = f"{str(result['module']).removeprefix('src/thirdshift/')}:{result['line']}"
    if result["outcome"] in {"survived", "uncovered"}:
        print(
            f"{number}/{count} {result['outcome']} {where}: {result['before']}  ->  {result['after']}", file=sys.stderr
        )
    else:
        print(f"{number}/{count} {result['outcome']} {where} in {result['seconds']:.1f} s", file=sys.stderr)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
