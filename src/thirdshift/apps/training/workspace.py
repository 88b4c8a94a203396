"""Every folder and file of a training workspace, named in one place."""

from pathlib import Path

from thirdshift.core.errors import UnsafePath

PRIORITIES = ("high", "normal", "low")


class TrainingWorkspace:
    """The folders a training daemon works in, below *base_dir*.

    *base_dir* itself may be a symbolic link; nothing below it may lead out of it. All folders must lie on one file
    system: the daemon moves files by renaming them.
    """

    def __init__(self, base_dir: Path | str) -> None:
        self.root = Path(base_dir).resolve()
        self.inbox = self.root / "inbox"
        self.queue = self.root / "queue"
        self.checking = self.queue / "checking"
        self.processing = self.queue / "processing"
        self.failed = self.queue / "failed"
        self.archive = self.root / "archive"
        self.current_model = self.root / "models" / "current_model"
        self.checkpoints = self.current_model / "checkpoints"
        self.snapshots = self.root / "backups" / "snapshots"
        self.consolidated_models = self.root / "consolidated_models"
        self.control = self.root / "control"
        self.socket = self.control / "daemon.sock"
        self.status_file = self.root / "status" / "training_status.json"
        self.logs = self.root / "logs"
        self.pid_file = self.root / ".pids" / "daemon.pid"
        self.work = self.root / "work"
        self.runs = self.root / "runs"
        self.history = self.root / "history"
        self.reports = self.root / "reports"
        self.held_out = self.root / "data" / "heldout"
        self.generations = self.root / "data" / "generations"

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders, each after its parent."""
        leaves = (
            self.inbox,
            self.checking,
            *(self.queue / priority for priority in PRIORITIES),
            self.processing,
            self.failed,
            self.archive,
            self.checkpoints,
            self.snapshots,
            self.consolidated_models,
            self.control,
            self.status_file.parent,
            self.logs,
            self.pid_file.parent,
            self.work,
            self.history,
            self.held_out,
        )
        parents = (parent for leaf in leaves for parent in leaf.parents if parent.is_relative_to(self.root))
        return tuple(sorted({*leaves, *parents}))

    def create(self) -> None:
        """Make what is missing, for this user alone (0700); what exists stays as it is.

        Raises :class:`UnsafePath` when a folder is a symbolic link that leads out of the workspace, before anything is
        made below it, and :class:`FileExistsError` when something that is no folder has its name.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in self.folders:
            self.contained(folder)
            folder.mkdir(mode=0o700, exist_ok=True)

    def contained(self, path: Path) -> Path:
        """Return *path*; raises :class:`UnsafePath` when it lies, links followed, outside the workspace."""
        resolved = path.resolve()
        if not resolved.is_relative_to(self.root):
            raise UnsafePath(path, f"it leads to {resolved}, outside the workspace {self.root}")
        return path
