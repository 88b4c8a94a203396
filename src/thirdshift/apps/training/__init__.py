"""The continuous training daemon: JSONL files dropped into an inbox become a better model.

It stands on Thirdshift's public API. Reading order: ``service.daemon`` (the loop), ``inbox.intake``,
``service.session`` and ``service.chores`` (its three hands), ``tasks`` (what runs in child processes),
``runs.file_training`` (the steps of one file).
"""

import os


def _let_threads_sleep() -> None:
    """Let torch's threads spin for some microseconds while they wait for each other, and then sleep.

    By default they spin for milliseconds, and whoever they wait for has no processor when something else runs: a step
    of the tiny model then takes 4.6 s on 2 cores instead of 0.13 s. Without any spinning it takes half as long again on
    an idle machine (benchmarks/LOG.md). The OpenMP library reads this when it is loaded, with torch; so this is the one
    place that all who load torch come through first. What a user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


_let_threads_sleep()
