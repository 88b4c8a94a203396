"""A worker whose monitor folds all the time, until somebody kills it (``test_recount``)."""

import signal
import sys

from thirdshift import BackgroundTaskManager
from thirdshift.monitor import keeper

if __name__ == "__main__":
    keeper._INTERVAL_S = 0.02  # so that kills meet it
    with BackgroundTaskManager(pools={"thread": 4, "process": 1, "async": 4}, database=sys.argv[1]):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        signal.pause()
