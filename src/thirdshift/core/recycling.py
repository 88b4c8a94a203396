"""When a child process of a process pool is replaced by a fresh one: libraries leak, and fragments stay."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RecyclingConfig:
    """A child process is replaced between two attempts, when one of these is reached."""

    after_tasks: int = 1_000
    """Most attempts that one child runs."""

    memory_growth_mib: int = 512
    """Most memory that a child may hold beyond what it held after its first attempt, in MiB."""

    def __post_init__(self) -> None:
        for name, value in (("after_tasks", self.after_tasks), ("memory_growth_mib", self.memory_growth_mib)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")

    @property
    def memory_growth_bytes(self) -> int:
        """The same in bytes."""
        return self.memory_growth_mib * 1024 * 1024
