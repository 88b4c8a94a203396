"""Moments and spans as people say them."""

from datetime import datetime, timedelta


def ago(moment: datetime | None, now: datetime) -> str:
    """Return *moment* as people say it: ``3 s ago``, ``in 2 min``, or a dash."""
    if moment is None:
        return "-"
    span = now - moment
    words = duration(abs(span))
    return f"in {words}" if span < timedelta(0) else f"{words} ago"


def duration(span: timedelta | None) -> str:
    """Return *span* with the unit that suits it."""
    if span is None:
        return "-"
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
