"""All harnesses, in the order in which they have their turns."""

from thirdshift.testing.torture.harness import Harness
from thirdshift.testing.torture.kills import Kills
from thirdshift.testing.torture.pages import Pages
from thirdshift.testing.torture.power_loss import PowerLoss
from thirdshift.testing.torture.room import DiskFull, Memory
from thirdshift.testing.torture.simulation import Simulation
from thirdshift.testing.torture.statements import Statements
from thirdshift.testing.torture.syscalls import Syscalls


def all_harnesses() -> list[Harness]:
    """Return every harness there is."""
    return [Simulation(), Syscalls(), DiskFull(), Memory(), Pages(), PowerLoss(), Statements(), Kills()]
