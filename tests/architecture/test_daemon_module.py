"""The training daemon's own module is a slim orchestrator: it wires services, calls them, and does no work itself."""

import ast
from pathlib import Path

from thirdshift.apps.training.service import daemon

SOURCE = Path(daemon.__file__)


def test_the_daemon_stays_slim() -> None:
    """It reads top to bottom in a few minutes."""
    assert len(SOURCE.read_text().splitlines()) <= 200


def test_the_daemon_holds_no_service_logic() -> None:
    """It imports services and what wires them: no files, clocks, processes, JSON, and no torch."""
    imported = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    ours = {name for name in imported if name.partition(".")[0] == "thirdshift"}
    assert imported - ours <= {"collections.abc", "contextlib", "functools", "pathlib"}
    beneath = {name.removeprefix("thirdshift").removeprefix(".") for name in ours}
    assert {name for name in beneath if not name.startswith(("apps.training.", "host.", "config"))} == {""}
