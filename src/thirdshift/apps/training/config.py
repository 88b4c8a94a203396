"""What a training daemon can be told, declared beside its meaning; reading files is the configuration's affair."""

from dataclasses import dataclass, field
from typing import Literal

from thirdshift.apps.training.settings import TrainingSettings
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.config import less_than, load_section, none_of, refuse

MODEL_SIZES = ("nano", "tiny", "small")
Level = Literal["quick", "standard", "deep"]
LEVELS: tuple[Level, ...] = ("quick", "standard", "deep")
"""How closely a dropped file is looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskConfig:
    """When the disk counts as full; 1 GB is 10^9 bytes."""

    min_free_gb: float = 10
    """GB under which training and snapshots are refused; 0 never refuses."""

    warn_free_gb: float = 50
    """GB under which the status warns; 0 never warns."""

    def __post_init__(self) -> None:
        refuse(less_than(0, min_free_gb=self.min_free_gb, warn_free_gb=self.warn_free_gb))


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """Puzzles that are made when people drop too little."""

    enabled: bool = True
    """Whether training data is generated at all."""

    count: int = 1000
    """Rows of one generated file."""

    levels: tuple[int, ...] = (1, 2, 3)
    """Levels of difficulty, 1 to 10; each row's is drawn evenly from them."""

    min_queue_size: int = 2
    """A file is generated when fewer than so many wait."""

    timeout_s: float = 300
    """Seconds after which a generation is ended."""

    seed: int = 0
    """Seed of the first generated file; each further file takes the next number."""

    def __post_init__(self) -> None:
        has_levels = bool(self.levels) and all(1 <= level <= 10 for level in self.levels)
        refuse(
            less_than(0, min_queue_size=self.min_queue_size, seed=self.seed),
            less_than(1, count=self.count, timeout_s=self.timeout_s),
            [] if has_levels else [f"levels are {list(self.levels)}; name at least one from 1 to 10"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BackgroundConfig:
    """The chores beside the training."""

    enabled: bool = True
    """False runs the chores in line, as a last resort: the daemon waits for each."""

    max_workers: int = 1
    """Chores that run at once."""

    snapshot_interval_hours: float = 6
    """Hours after which a newer checkpoint gets a snapshot, whoever takes the daily one."""

    use_cron_for_retention: bool = True
    """True leaves retention, daily snapshot and weekly consolidation to the system's timers; False to the daemon."""

    def __post_init__(self) -> None:
        refuse(
            less_than(1, max_workers=self.max_workers),
            less_than(0, snapshot_interval_hours=self.snapshot_interval_hours),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The model that a new workspace begins with; later files go on from ``models/current_model``."""

    path: str | None = None
    """A local folder with a Hugging Face causal language model, relative to the workspace; ``null``: a tiny model is
    made on the spot."""

    size: str = field(default="tiny", metadata={"choices": MODEL_SIZES})
    """Size of the model that is made: "nano" (for tests), "tiny" (0.36 million parameters) or "small" (0.8 million)."""

    seed: int = 0
    """Seed of the weights of the model that is made."""

    def __post_init__(self) -> None:
        refuse(none_of("size", self.size, MODEL_SIZES))


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """How a dropped file is looked at before it may wait for training."""

    level: str = field(default="standard", metadata={"choices": LEVELS})
    """"quick": the form of every line. "standard": also the lengths of 1,000 rows in tokens of the model. "deep": the
    lengths of all rows, and rows that come again; at idle priority."""

    max_file_gb: float = 16
    """GB of a file that is still taken."""

    def __post_init__(self) -> None:
        refuse(none_of("level", self.level, LEVELS), less_than(0.001, max_file_gb=self.max_file_gb))


@dataclass(frozen=True, kw_only=True, slots=True)
class DaemonConfig:
    """All settings of a training daemon; every one has a default that suits a single machine."""

    poll_interval_s: float = 0.5
    """Seconds between two looks at inbox and control folder."""

    settle_s: float = 1.0
    """Seconds for which a dropped file must not change before it is taken."""

    shutdown_timeout_seconds: float = 30
    """Seconds that a stop waits for the work in hand before it is ended."""

    max_attempts: int = 3
    """Times that a failing file is tried in all; a stop, a crash of the daemon or a full disk is no attempt."""

    retry_pause_s: float = 60
    """Seconds after which a file that failed is tried again, behind all others; doubled by each further failure."""

    error_pause_s: float = 60
    """Seconds that a part of the daemon rests after an error that nobody foresaw; doubled by each further one, up to
    ten times as long."""

    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """How a dropped file is looked at."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model to begin with."""

    disk: DiskConfig = field(default_factory=DiskConfig)
    """When the disk counts as full."""

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """Puzzles that are made when people drop too little."""

    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    """The chores beside the training."""

    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How a file is trained."""

    def __post_init__(self) -> None:
        refuse(
            less_than(
                0,
                settle_s=self.settle_s,
                shutdown_timeout_seconds=self.shutdown_timeout_seconds,
                retry_pause_s=self.retry_pause_s,
            ),
            less_than(0.01, poll_interval_s=self.poll_interval_s, error_pause_s=self.error_pause_s),
            less_than(1, max_attempts=self.max_attempts),
        )


def config_of(workspace: TrainingWorkspace) -> DaemonConfig:
    """Return the ``training`` section of the workspace's configuration file; raises ``ConfigurationError``."""
    return load_section(workspace.root, "training", DaemonConfig)
