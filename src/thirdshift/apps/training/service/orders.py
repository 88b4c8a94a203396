"""What people order a running daemon to do, carried out in its loop."""

from thirdshift.apps.training.control import ControlFolder
from thirdshift.apps.training.notices import Notify, Remarked
from thirdshift.apps.training.service.chores import Chores
from thirdshift.apps.training.service.session import TrainingSession


class Orders:
    """Takes the words in the control folder and does what they say."""

    def __init__(
        self,
        control: ControlFolder,
        session: TrainingSession,
        chores: Chores,
        notify: Notify,
    ) -> None:
        self._control = control
        self._session = session
        self._chores = chores
        self._notify = notify
        self._is_told_to_stop = False
        self.stops_after_file = False
        """Whether no further file is to be taken."""
        self.stops_at_once = False
        """Whether the end is not to wait for anything."""

    @property
    def must_stop(self) -> bool:
        """Whether the daemon is to end now: after the micro-batch, or with nothing in hand that goes on."""
        is_at_rest = self._session.file is None or self._control.is_paused
        return self._is_told_to_stop or (self.stops_after_file and is_at_rest)

    def begin(self) -> None:
        """Drop what was meant for the last daemon; its pause goes on."""
        for word in self._control.clear_stale():
            self._notify(Remarked(f"dropped the order {word}, which was meant for the last daemon"))

    def stop(self) -> None:
        """End after the micro-batch in hand."""
        self._is_told_to_stop = True

    def obey(self) -> None:
        """Carry out the words that lie there."""
        for word in self._control.take():
            self._notify(Remarked(f"order: {word}"))
            match word:
                case "stop":
                    self.stop()
                case "stop_after_file":
                    self.stops_after_file = True
                case "stop_now":
                    self.stops_at_once = True
                    self.stop()
                case "pause" | "resume":
                    self._control.set_paused(word == "pause")
                case "skip":
                    self._session.skip()
                case "trigger_snapshot":
                    self._chores.snapshot()
                case _:
                    self._notify(Remarked(f"{word} is not supported yet; nothing was done"))
