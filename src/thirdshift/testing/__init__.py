"""What users and our own tests share: tasks that run in the calling thread, a clock to turn, and the engines' suites.

``inline`` runs every submit at once, ``run_until_idle`` what is due, ``run_for`` what becomes due in some time, also of
schedules; :mod:`thirdshift.testing.running` shows them::

    from thirdshift.testing import inline

    def test_sending():
        with inline() as manager:
            assert manager.submit(send, "a@example.org", subject="hi").result() == 15

Nothing here is imported by the rest of the package, but by the command ``thirdshift torture``. ``conformance`` and
``fixtures`` need pytest; the others need nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thirdshift.testing.clock import FakeClock
    from thirdshift.testing.running import inline, run_for, run_until_idle

__all__ = ["FakeClock", "inline", "run_for", "run_until_idle"]

_HOME = {"FakeClock": "clock", "inline": "running", "run_for": "running", "run_until_idle": "running"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: child processes import functions from here, and must stay small."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
