"""A line chart as SVG, written by hand: axes, ticks, a legend. It suits light and dark pages and needs no library."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 860, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 44, 46
_COLOURS = ("#3b82c4", "#d9822b", "#3d9a61", "#b5507a", "#8467c0", "#7d8a2e")
"""Told apart by most eyes, and of like contrast on white and on black."""
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#444}.title{font-size:14px;font-weight:600}"
    ".grid{stroke:#8884;stroke-width:1}.axis{stroke:#888}.mark{stroke:#8886;stroke-dasharray:2 4}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A named line; points are (x, y), in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]
    has_dots: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """What is drawn. With ``is_logarithmic`` equal steps upwards are equal ratios."""

    title: str
    x_name: str
    y_name: str
    lines: Sequence[Line]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    is_logarithmic: bool = False
    is_percent: bool = False
    x_labels: Sequence[tuple[float, str]] = ()
    """Names at places of the x axis, instead of numbers."""
    marks: Sequence[float] = field(default=())
    """Places of x where a dotted line stands."""

    def svg(self) -> str:
        """Return the picture as a document of its own."""
        body = "".join([*self._grid(), *self._marks(), *self._drawn(), *self._legend()])
        label = escape(self.title, quote=True)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
            f"<style>{_STYLE}</style>{body}</svg>"
        )

    def _grid(self) -> Iterator[str]:
        yield _text(_LEFT, 18, self.title, kind="title")
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        for value in self._y_ticks():
            y = self._y(value)
            yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield _text(_LEFT - 8, y + 4, f"{value:.0%}" if self.is_percent else f"{value:g}", anchor="end")
        for place, name in self.x_labels or [(tick, f"{tick:,g}") for tick in ticks(*self._x_range(), 8)]:
            x = self._x(place)
            yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
            yield _text(x, bottom + 18, name, anchor="middle")
        yield f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        yield _text((_LEFT + right) / 2, HEIGHT - 8, self.x_name, anchor="middle")
        middle = (_TOP + bottom) / 2
        yield f'<g transform="rotate(-90 14 {middle})">{_text(14, middle, self.y_name, anchor="middle")}</g>'

    def _marks(self) -> Iterator[str]:
        for place in self.marks:
            x = self._x(place)
            yield f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'

    def _drawn(self) -> Iterator[str]:
        for number, line in enumerate(self.lines):
            colour = _COLOURS[number % len(_COLOURS)]
            places = [(self._x(x), self._y(y)) for x, y in line.points if not self.is_logarithmic or y > 0]
            drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            yield f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{drawn}"/>'
            if line.has_dots:
                yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)

    def _legend(self) -> Iterator[str]:
        """Yield the names of the lines, from the right, where there is more than one."""
        x = float(WIDTH - _RIGHT)
        for number, line in reversed(list(enumerate(self.lines if len(self.lines) > 1 else ()))):
            name = shortened(line.name, 22)
            x -= 7 * len(name) + 28
            yield f'<rect x="{x:.0f}" y="27" width="12" height="4" fill="{_COLOURS[number % len(_COLOURS)]}"/>'
            yield _text(x + 17, 33, name)

    def _values(self) -> list[float]:
        return [y for line in self.lines for _, y in line.points if not self.is_logarithmic or y > 0]

    def _x_range(self) -> tuple[float, float]:
        if self.x_range is not None:
            return self.x_range
        places = [x for line in self.lines for x, _ in line.points]
        return _widened(min(places, default=0.0), max(places, default=1.0))

    def _y_range(self) -> tuple[float, float]:
        if self.y_range is not None:
            return self.y_range
        return _widened(min(self._values(), default=0.1), max(self._values(), default=1.0))

    def _y_ticks(self) -> list[float]:
        low, high = self._y_range()
        if not self.is_logarithmic:
            return ticks(low, high, 5)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        wanted = (1, 2, 5) if len(decades) < 4 else (1,)
        return [step * 10.0**decade for decade in decades for step in wanted if low <= step * 10.0**decade <= high]

    def _x(self, value: float) -> float:
        low, high = self._x_range()
        return _LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        low, high = self._y_range()
        if self.is_logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers from *low* to *high*, about so many: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def shortened(name: str, limit: int) -> str:
    """Return *name*, with its middle left out when it is longer than *limit* letters."""
    if len(name) <= limit:
        return name
    half = (limit - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if low < high else (low * 0.5, high * 1.5 or 1.0)


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{mark}>{escape(text)}</text>'
