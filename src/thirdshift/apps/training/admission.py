"""Whether the next file may be taken now, and if not, why: somebody paused or is about to stop, or the disk is full."""

from thirdshift.apps.training.control import ControlFolder
from thirdshift.apps.training.orders import Orders
from thirdshift.apps.training.session import TrainingSession
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.host.disk import DiskGuard

RECOVERED = "Recovered from crash"


class Admission:
    """Lets *session* take the next file, or knows the reason why not."""

    def __init__(
        self,
        workspace: TrainingWorkspace,
        session: TrainingSession,
        control: ControlFolder,
        orders: Orders,
        disk: DiskGuard,
    ) -> None:
        self._workspace = workspace
        self._session = session
        self._control = control
        self._orders = orders
        self._disk = disk
        self._recovery: str | None = None
        self.reason: str | None = None
        """Why no file is taken, or what a person should know about this start."""

    @property
    def state(self) -> str:
        """What the daemon is doing, in one word."""
        if self._control.is_paused:
            return "paused"
        return "idle" if self._session.file is None else "training"

    def recovered(self) -> None:
        """Say, until the first file is taken, that the daemon before did not stop cleanly."""
        self.reason = self._recovery = RECOVERED

    def take_next(self) -> None:
        """Take the next file if nothing speaks against it."""
        self.reason = self._recovery
        if self._control.is_paused:
            self.reason = f"paused since {self._control.paused_since}"
        elif self._orders.stops_after_file:
            self.reason = "stops after the file in hand, by order"
        elif self._disk.check(self._workspace.checkpoints).level == "full":
            self.reason = f"less than {self._disk.min_free_gb:g} GB free; files wait until there is space"
        elif self._session.begin():
            self.reason = self._recovery = None
