"""``make bench``: the engine beside the bare loops and beside other libraries, in turn in one run; medians and ratios.

python benchmarks/engine.py                  everything, about ten minutes
python benchmarks/engine.py --quick submit   the named cases, short
python benchmarks/engine.py --alone drain    without other libraries

Figures and bars go to standard error while they are found; ``--json`` or ``--markdown`` prints the whole at the end.
"""

import argparse
import json
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from bars import Judge
from bench import Bench
from claims import claim
from deaths import death
from imports import import_time
from limit_keys import limit_keys
from losses import losses
from monitoring import monitoring
from pools import pools
from report import document, line_of_machine, machine, markdown, print_figure, print_verdicts
from runs import drain, idle, latency
from submits import submit, submit_many, submit_slow

CASES: dict[str, Callable[[Bench], None]] = {
    "submit": submit,
    "slow": submit_slow,
    "many": submit_many,
    "drain": drain,
    "latency": latency,
    "pools": pools,
    "idle": idle,
    "claim": claim,
    "keys": limit_keys,
    "death": death,
    "losses": losses,
    "monitor": monitoring,
    "import": import_time,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"any of {', '.join(CASES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; for a first look")
    parser.add_argument("--alone", action="store_true", help="ourselves and the bare loops only")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print everything as JSON")
    output.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    with (
        tempfile.TemporaryDirectory(prefix="thirdshift-bench-") as name,
        Bench(Path(name), quick=options.quick, alone=options.alone, report=print_figure) as bench,
    ):
        facts = machine(bench.folder)
        print(line_of_machine(facts), file=sys.stderr)
        failed = [case for case in options.cases or CASES if not _measured(bench, case)]
    print_verdicts(Judge(bench.figures).verdicts())
    if options.json:
        print(json.dumps(document(bench, facts), indent=1))
    elif options.markdown:
        print(markdown(bench, facts))
    return 1 if failed else 0


def _measured(bench: Bench, case: str) -> bool:
    """Measure *case*; when it fails, the figures of the others are kept."""
    try:
        CASES[case](bench)
    except Exception as error:  # noqa: BLE001  # whatever a peer raises
        traceback.print_exc()
        bench.skip(case, f"failed: {error!r}")
        return False
    return True


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
