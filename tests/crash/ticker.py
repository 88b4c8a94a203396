"""One process of ``test_schedules``: looks at the schedules of a file, again and again, by a clock that the test turns.

Arguments: the database, and the file that holds the clock's moment in microseconds. Ends when its standard input does.
"""

import select
import sys
from pathlib import Path

from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.clock import SharedClock

_PAUSE_S = 0.001


def main() -> None:
    """Tick until nobody is there any more."""
    database, clock = map(Path, sys.argv[1:])
    engine = SQLiteEngine.shared(database, clock=SharedClock(clock))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], _PAUSE_S)[0]:
        engine.schedules.tick()


if __name__ == "__main__":
    main()
