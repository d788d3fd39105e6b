"""Score, brightness, sharpness and novelty of the last parts against the bundle's reference, as one SVG file."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.runtime.drift.detector import Alarm
from export.runtime.drift.reference import QUANTITIES

__all__ = ["plot"]

Real = NDArray[np.float64]

_WIDTH, _HEIGHT = 960, 176  # of a panel, with its title and axis
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 30, 34, 26
_WORDS: Final = 180  # pixels that what is told of an alarm takes
_RUN: Final = 50  # parts of the running median
_DOTS: Final = 1500  # more would be one blot, and a large file
_NAMES: Final = {
    "score": "score",
    "brightness": "brightness, mean grey",
    "sharpness": "sharpness, mean step to the next pixel in grey levels",
    "novelty": "novelty, distance to the nearest familiar picture",
}
_ODDS: Final = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
_STYLE: Final = """
.drift{--ink:#1c2833;--muted:#5d6b78;--rule:#dfe5ea;--ground:#fff;--band:#cfe3ef;--line:#0a6aa8;--alarm:#b8430a;
font:12px system-ui,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif;background:var(--ground)}
@media(prefers-color-scheme:dark){.drift{--ink:#e8eef2;--muted:#9fb0bc;--rule:#33434e;--ground:#141c22;--band:#24424f;
--line:#5fb4ea;--alarm:#ff9a5c}}
.drift text{fill:var(--muted)}.drift .name{fill:var(--ink);font-weight:600}
.drift .told{fill:var(--alarm);font-weight:600}
.drift .band{fill:var(--band)}.drift .usual{stroke:var(--muted);stroke-dasharray:4 4}.drift .rule{stroke:var(--rule)}
.drift .dots{stroke:var(--line);stroke-width:2.4;stroke-linecap:round;opacity:.4;fill:none}
.drift .run{stroke:var(--line);stroke-width:2;fill:none}.drift .alarm{stroke:var(--alarm);stroke-width:1.5}
.drift .since{fill:var(--alarm);opacity:.13}
"""


def plot(
    values: Mapping[str, Sequence[float]],
    reference: Mapping[str, Sequence[float]],
    alarms: Sequence[Alarm] = (),
    first: int = 1,
) -> str:
    """Return an SVG that needs nothing beside it, for light and dark backgrounds.

    ``values`` and ``reference`` hold the four quantities, values in the order of the parts; ``first`` is the count of
    the first of these parts, as the alarms count them. The band is where nine in ten of the reference lie, the dashed
    line its median, the solid one the running median of the parts.
    """
    number = len(values[QUANTITIES[0]])
    panels = "".join(
        f'<g transform="translate(0,{_HEIGHT * row})">{_panel(name, values[name], reference[name], alarms, first)}</g>'
        for row, name in enumerate(QUANTITIES)
    )
    height = _HEIGHT * len(QUANTITIES)
    told = f"{number} parts against the reference, {len(alarms)} alarms"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drift" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(told)}"><style>{_STYLE}</style>'
        f'<rect width="{_WIDTH}" height="{height}" fill="var(--ground)"/>{panels}</svg>\n'
    )


@dataclass(frozen=True)
class _Axis:
    """From values to pixels, by a scale that is linear in ``bend`` of them."""

    low: float
    high: float
    start: float
    end: float
    bend: Callable[[Real], Real]

    def at(self, values: float | Sequence[float] | Real) -> Real:
        bent = np.clip(self.bend(np.atleast_1d(np.asarray(values, np.float64))), self.low, self.high)
        placed: Real = self.start + (bent - self.low) / (self.high - self.low) * (self.end - self.start)
        return placed


def _straight(values: Real) -> Real:
    return values


def _log_odds(values: Real) -> Real:
    held = values.clip(_ODDS[0], _ODDS[-1])
    odds: Real = np.log(held / (1 - held))
    return odds


def _panel(name: str, values: Sequence[float], reference: Sequence[float], alarms: Sequence[Alarm], first: int) -> str:
    own = np.asarray(values, np.float64)
    y, ticks = _vertical(name, own, np.asarray(reference, np.float64))
    last = first + max(len(own), 2) - 1
    x = _Axis(first, last, _LEFT, _WIDTH - _RIGHT, _straight)
    low, middle, high = y.at(np.quantile(np.asarray(reference), (0.05, 0.5, 0.95)))
    across = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}"'
    parts = [
        f'<text class="name" x="{_LEFT}" y="20">{_NAMES[name]}</text>',
        f'<rect class="band" x="{_LEFT}" y="{high:.1f}" width="{_WIDTH - _LEFT - _RIGHT}" height="{low - high:.1f}"/>',
        *(_horizontal(f"{tick:g}", float(y.at(tick)[0]), across) for tick in ticks),
        f'<line class="usual" {across} y1="{middle:.1f}" y2="{middle:.1f}"/>',
        *(_below(f"{tick:,.0f}", float(x.at(tick)[0])) for tick in _nice(first, last, 8) if tick == int(tick)),
        _dots(own, x, y, first),
        _running(own, x, y, first),
        *_marks([alarm for alarm in alarms if alarm.quantity == name and first <= alarm.part <= last], x),
    ]
    return "".join(parts)


def _vertical(name: str, values: Real, reference: Real) -> tuple[_Axis, Sequence[float]]:
    """The axis that shows nearly all values and all of the reference's band; what lies beyond is drawn at its end."""
    start, end = _HEIGHT - _BOTTOM, _TOP
    if name == "score":
        low, high = _log_odds(np.array([_ODDS[0], _ODDS[-1]]))
        return _Axis(float(low), float(high), start, end, _log_odds), _ODDS
    both = [np.quantile(own, (0.002, 0.998)) for own in (values, reference) if own.size]
    low, high = float(np.min(both)), float(np.max(both))
    room = 0.06 * (high - low) or 1.0
    low, high = max(0.0, low - room), high + room
    return _Axis(low, high, start, end, _straight), _nice(low, high, 4)


def _nice(low: float, high: float, number: int) -> list[float]:
    """About as many round numbers between two."""
    rough = (high - low) / number
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _horizontal(text: str, y: float, across: str) -> str:
    return (
        f'<line class="rule" {across} y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _below(text: str, x: float) -> str:
    return f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{text}</text>'


def _dots(values: Real, x: _Axis, y: _Axis, first: int) -> str:
    rows = np.linspace(0, max(0, len(values) - 1), min(len(values), _DOTS)).astype(int)
    places = zip(x.at(rows + first), y.at(values[rows]), strict=True)
    return f'<path class="dots" d="{"".join(f"M{a:.1f} {b:.1f}h0" for a, b in places)}"/>'


def _running(values: Real, x: _Axis, y: _Axis, first: int) -> str:
    """The median of the last parts at every so many of them."""
    if len(values) < _RUN:
        return ""
    ends = np.unique(np.linspace(_RUN, len(values), min(400, len(values) - _RUN + 1)).astype(int))
    medians = [float(np.median(values[end - _RUN : end])) for end in ends]
    places = zip(x.at(ends - 1 + first), y.at(medians), strict=True)
    return f'<polyline class="run" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in places)}"/>'


def _marks(alarms: Sequence[Alarm], x: _Axis) -> list[str]:
    marks, room = [], float("inf")  # from the latest back: of alarms that crowd each other the last one is told
    for alarm in reversed(alarms):
        since, at = x.at([max(alarm.since, x.low), alarm.part])
        anchor, aside = ("end", -6) if at > _WIDTH / 2 else ("start", 6)
        told = f"{alarm.direction} since about {alarm.since:,}" if room - at > _WORDS else ""
        room = float(at) if told else room
        marks.append(
            f'<rect class="since" x="{since:.1f}" y="{_TOP}" width="{max(1.0, at - since):.1f}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM}"/>'
            f'<line class="alarm" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 10}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text class="told" x="{at + aside:.1f}" y="{_TOP - 2}" text-anchor="{anchor}">'
            f"{told}</text>"
        )
    return marks
