"""A worker with threads and child processes, until somebody kills it: the victim of ``test_kills``."""

import signal
import sys

from thirdshift import BackgroundTaskManager

if __name__ == "__main__":
    with BackgroundTaskManager(max_workers=2, database=sys.argv[1]):
        signal.pause()
