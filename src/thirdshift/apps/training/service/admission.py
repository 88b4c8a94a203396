"""Whether training may go on and the next file may be taken, and if not, why: a pause, a coming stop, a full disk."""

from thirdshift import BackgroundTaskManager
from thirdshift.apps.training.control import ControlFolder
from thirdshift.apps.training.inbox.intake import Intake
from thirdshift.apps.training.notices import Notify, Remarked
from thirdshift.apps.training.service.orders import Orders
from thirdshift.apps.training.service.session import TrainingSession
from thirdshift.apps.training.tasks import TRAINING_QUEUE
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.host.disk import DiskGuard, DiskLevel

RECOVERED = "Recovered from crash"


class Admission:
    """Lets *session* take the next file, or knows the reason why not.

    The trainer looks at the pause and the disk too, and ends with a checkpoint. Its task must not start again
    meanwhile: that is why the queue of such tasks is paused as long.
    """

    def __init__(
        self,
        workspace: TrainingWorkspace,
        session: TrainingSession,
        control: ControlFolder,
        orders: Orders,
        intake: Intake,
        manager: BackgroundTaskManager,
        disk: DiskGuard,
        notify: Notify,
    ) -> None:
        self._workspace = workspace
        self._session = session
        self._control = control
        self._orders = orders
        self._intake = intake
        self._manager = manager
        self._disk = disk
        self._notify = notify
        self._recovery: str | None = None
        self._is_open: bool | None = None
        self._level: DiskLevel = "ok"
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
        self._recovery = RECOVERED
        self.reason = RECOVERED

    def take_next(self) -> None:
        """Take the next file if nothing speaks against it."""
        obstacle = self._obstacle()
        self.reason = obstacle or self._recovery
        self._open(obstacle is None)
        if obstacle is not None:
            return
        if self._orders.stops_after_file:
            self.reason = "stops after the file in hand, by order"
        elif self._session.begin(self._intake.awaited()):
            self.reason = self._recovery = None

    def _obstacle(self) -> str | None:
        """Return what keeps training from going on."""
        level = self._disk.check(self._workspace.checkpoints).level
        self._tell(level)
        if self._control.is_paused:
            return f"paused since {self._control.paused_since}"
        if level == "full":
            return f"less than {self._disk.min_free_gb:g} GB free; files wait until there is space"
        return None

    def _open(self, is_open: bool) -> None:
        if is_open == self._is_open:
            return
        if is_open:
            self._manager.resume_queue(TRAINING_QUEUE)
        else:
            self._manager.pause_queue(TRAINING_QUEUE)
        self._is_open = is_open

    def _tell(self, level: DiskLevel) -> None:
        """Say when the disk becomes low or full, and when it has room again."""
        if level == self._level:
            return
        self._level = level
        limit_gb = {"full": self._disk.min_free_gb, "low": self._disk.warn_free_gb}.get(level)
        words = "has room again" if limit_gb is None else f"is {level}: less than {limit_gb:g} GB are free"
        self._notify(Remarked(f"the disk {words}"))
