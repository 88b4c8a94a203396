"""How long to wait before trying again."""

import math
from dataclasses import dataclass

from thirdshift.core.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter: a random wait between 0 and ``first_s * 2**failures``, at most ``most_s``.

    Full jitter spreads a crowd of failing tasks better than a fixed or partly random wait (Brooker, "Exponential
    Backoff And Jitter", 2015). Both are in seconds; raises ``UsageError`` for what is no wait.
    """

    first_s: float = 1.0
    most_s: float = 3600.0

    def __post_init__(self) -> None:
        for name, seconds in (("first_s", self.first_s), ("most_s", self.most_s)):
            if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
                raise UsageError(f"RetryPolicy({name}=…) was given {seconds!r}; it is in seconds, 0 or more")

    def wait_s(self, failures: int, random: float) -> float:
        """Return the wait in seconds after *failures* earlier failures; *random* is uniform in [0, 1)."""
        ceiling = min(self.most_s, self.first_s * 2.0 ** min(failures, 62))
        return ceiling * random
