"""What kill -9 of the worker costs: ourselves and the peers at their safest settings, as in ``make faults``."""

from concurrent.futures import ThreadPoolExecutor

from bench import OURS, Bench, Skipped
from fault_cases import Finding, random_kills
from fault_peers import SIDES, side

UNFINISHED = "100 tasks, {} kill -9 of their worker: lost or stuck"
AFTER = "100 tasks, {} kill -9 of their worker: last end after the last kill"


def losses(bench: Bench) -> None:
    """All at the same time: they wait more than they work."""
    kills = 2 if bench.quick else 4
    names = [OURS] if bench.alone else list(SIDES)

    def killed(who: str) -> Finding | Exception:
        try:
            with side(who, bench.room()) as victim:
                return random_kills(victim, kills=kills, count=100)
        except (ImportError, Skipped) as reason:
            return reason

    with ThreadPoolExecutor(3) as pool:
        for who, finding in zip(names, pool.map(killed, names), strict=True):
            if isinstance(finding, Exception):
                bench.skip(who, finding)
                continue
            bench.add(UNFINISHED.format(kills), who, "tasks", [finding.lost + finding.stuck])
            bench.add(AFTER.format(kills), who, "s", [finding.took_s])
