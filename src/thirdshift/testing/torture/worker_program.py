"""A worker with threads, children and an event loop, until somebody kills it (``test_kills``, ``test_poison``)."""

import signal
import sys

from thirdshift import BackgroundTaskManager

if __name__ == "__main__":
    slots = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    with BackgroundTaskManager(max_workers=slots, pools={"async": 2}, database=sys.argv[1]):
        signal.pause()
