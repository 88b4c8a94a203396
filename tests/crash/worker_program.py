"""A worker with threads, child processes and an event loop, until somebody kills it: the victim of ``test_kills``."""

import signal
import sys

from thirdshift import BackgroundTaskManager

if __name__ == "__main__":
    with BackgroundTaskManager(max_workers=2, pools={"async": 2}, database=sys.argv[1]):
        signal.pause()
