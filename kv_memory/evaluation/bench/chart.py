"""Small charts in SVG: what treatments leave, against what they cost or by the values of a group.

Colours are CSS variables and text has the page's colour, so that a chart is readable on light and on dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from kv_memory.calibration.estimates import Estimate

COLOURS = 7
"""Number of colours: the page's variables --c0, --c1 and so on."""
_SHAPES = ("circle", "square", "triangle", "diamond")
WIDTH, HEIGHT = 400, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 14, 42
_HIGHEST = 1.5
"""Largest share of influence that is drawn to scale; what is above is drawn at the edge."""


@dataclass(frozen=True)
class Point:
    """A figure in a chart."""

    x: float
    y: Estimate
    label: str


@dataclass(frozen=True)
class Line:
    """A family of treatments: its points are joined from left to right."""

    name: str
    points: tuple[Point, ...]
    style: int
    """Number that colour and shape follow from; the same in all charts of a page."""


def chart(title: str, x_name: str, lines: Sequence[Line], ticks: Sequence[str] = ()) -> str:
    """Return a chart of shares of influence, as an SVG element.

    `ticks`: names of x = 0, 1, 2 and so on; without them x is a number from 0 on.
    """
    points = [point for line in lines for point in line.points]
    top = min(_HIGHEST, max([1.0, *(point.y.value for point in points)]))
    right = len(ticks) - 0.5 if ticks else max([1.0, *(point.x for point in points)])
    frame = _Frame(-0.5 if ticks else 0.0, right, top)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_grid(frame, x_name, ticks),
        *(part for number, line in enumerate(lines) for part in _line(frame, line, _dodge(number, lines, ticks))),
        "</svg>",
    ]
    return "".join(parts)


def key(style: int) -> str:
    """Return the mark of a line, for a legend, as an SVG element."""
    return (
        f'<svg class="key" viewBox="0 0 24 12" style="color:var(--c{style % COLOURS})" aria-hidden="true">'
        f'<path d="M1 6H23" stroke="currentColor" stroke-width="1.5"/>{_mark(style, 12, 6)}</svg>'
    )


@dataclass(frozen=True)
class _Frame:
    first: float
    last: float
    top: float

    def x(self, value: float) -> float:
        return round(_LEFT + (value - self.first) / (self.last - self.first) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = min(max(value, 0.0), self.top) / self.top
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)


def _grid(frame: _Frame, x_name: str, ticks: Sequence[str]) -> Iterable[str]:
    end, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    for value in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5):
        if value <= frame.top:
            at = frame.y(value)
            yield f'<path class="grid" d="M{_LEFT} {at}H{end}"/>'
            yield f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end">{value:g}</text>'
    shown = list(enumerate(ticks)) if ticks else [(step, f"{step:g}") for step in _steps(frame.last)]
    for x, name in shown:
        at = frame.x(x)
        yield f'<path class="grid" d="M{at} {floor}v4"/>'
        yield f'<text x="{at}" y="{floor + 16}" text-anchor="middle">{escape(name)}</text>'
    yield f'<text x="{(_LEFT + end) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>'


def _steps(last: float) -> list[float]:
    step = next(step for step in (0.25, 0.5, 1, 2, 5, 10, 20, 50, last) if last / step <= 6)
    return [number * step for number in range(int(last / step) + 1)]


def _dodge(number: int, lines: Sequence[Line], ticks: Sequence[str]) -> float:
    """Return how far to the side a line's points are drawn: at the same x, intervals would hide each other."""
    return (number - (len(lines) - 1) / 2) * min(0.08, 0.7 / len(lines)) if ticks else 0.0


def _line(frame: _Frame, line: Line, aside: float) -> Iterable[str]:
    points = sorted(line.points, key=lambda point: point.x)
    places = [(frame.x(point.x + aside), frame.y(point.y.value)) for point in points]
    yield f'<g style="color:var(--c{line.style % COLOURS})">'
    if len(points) > 1:
        path = "L".join(f"{x} {y}" for x, y in places)
        yield f'<path d="M{path}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    for point, (x, y) in zip(points, places, strict=True):
        low, high = frame.y(point.y.low), frame.y(point.y.high)
        said = f"{point.label}: {point.y.value:.3f} ({point.y.low:.3f} to {point.y.high:.3f})"
        above = point.y.value > frame.top
        yield f'<g><title>{escape(said)}</title><path d="M{x} {low}V{high}" stroke="currentColor" opacity=".55"/>'
        yield f'<path d="M{x - 5} {y + 5}L{x} {y - 3}L{x + 5} {y + 5}" fill="none" stroke="currentColor"/>' * above
        yield _mark(line.style, x, y) * (not above) + "</g>"
    yield "</g>"


def _mark(style: int, x: float, y: float) -> str:
    match _SHAPES[style % len(_SHAPES)]:
        case "circle":
            return f'<circle cx="{x}" cy="{y}" r="3.6" fill="currentColor"/>'
        case "square":
            return f'<path d="M{x - 3.3:g} {y - 3.3:g}h6.6v6.6h-6.6z" fill="currentColor"/>'
        case "triangle":
            return f'<path d="M{x - 4:g} {y + 3.4:g}h8l-4 -7.4z" fill="currentColor"/>'
        case _:
            return f'<path d="M{x:g} {y - 4.6:g}l4.2 4.6l-4.2 4.6l-4.2 -4.6z" fill="currentColor"/>'
