"""Unix seconds as the text that reports and sidecars hold."""

from datetime import UTC, datetime


def iso(seconds: float) -> str:
    """Unix seconds as an ISO time in UTC, always with microseconds, so that it sorts as text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
