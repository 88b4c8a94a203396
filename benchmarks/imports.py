"""What an import costs in a fresh interpreter, and what it loads."""

from collections import defaultdict

from bench import OURS, Bench, python

NAME = "import of the package"
MANAGER = "import of the class that submits"
HEAVY = "heavy modules loaded by the import"
_HEAVY = ("torch", "numpy", "transformers", "celery", "huey", "redis", "django", "flask", "fastapi", "aiohttp")
_STATEMENTS = {
    OURS: ("import thirdshift", "from thirdshift import BackgroundTaskManager"),
    "huey": ("import huey", "from huey import SqliteHuey"),
    "celery": ("import celery", "from celery import Celery"),
}


def import_time(bench: Bench) -> None:
    """Fresh interpreters in turn, compiled modules at hand; the interpreter's own start is not counted."""
    cache = {"PYTHONPYCACHEPREFIX": str(bench.room()), "PYTHONDONTWRITEBYTECODE": ""}
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(1 + bench.rounds * (1 if bench.quick else 3)):
        for who, statements in _STATEMENTS.items():
            if bench.alone and who != OURS:
                continue
            for case, statement in zip((NAME, MANAGER), statements, strict=True):
                milliseconds = float(python(_timed(statement), **cache))
                if milliseconds < 0:
                    bench.skip(f"import of {who}", "it is not installed")
                elif number > 0:  # the first one compiled
                    times[case, who].append(milliseconds)
    for (case, who), samples in times.items():
        bench.add(case, who, "ms", samples)
    loaded = python(f"{_STATEMENTS[OURS][1]}\nimport sys\nprint(sum(name in sys.modules for name in {_HEAVY}))")
    bench.add(HEAVY, OURS, "modules", [float(loaded)])


def _timed(statement: str) -> str:
    return (
        f"import time; t = time.perf_counter()\ntry: {statement}\nexcept ImportError: print(-1)\n"
        "else: print((time.perf_counter() - t) * 1000)"
    )
