"""How decisions fall off as pictures get worse: one small panel a kind, all on the same axes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from textwrap import fill
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MultipleLocator

from factory.report.model import Robustness
from factory.report.style import DASHES, HALF, INK, MUTED, SERIES, STYLE, shorten, to_svg

COLUMNS: Final = 4
MARKERS: Final = "osD^vPX"  # beside the colour, for who cannot tell colours apart
STRIDE: Final = 0.2  # of the grid lines: the y axis starts at a multiple of it
LINES: Final[dict[str, dict[str, Any]]] = {
    "balanced_accuracy": {},
    "escape": {},
    "overkill": {"linestyle": DASHES, "markerfacecolor": "white"},
}


@matplotlib.rc_context(STYLE)
def balanced_accuracy(found: Robustness) -> str:
    """Balanced accuracy over the severity."""
    figure = _panels(found, ("balanced_accuracy",))
    return to_svg(figure, "robust-accuracy", "Balanced accuracy over the severity of each kind of worse pictures")


@matplotlib.rc_context(STYLE)
def escape_and_overkill(found: Robustness) -> str:
    """Escape and overkill over the severity, of a line with a good class."""
    figure = _panels(found, ("escape", "overkill"))
    return to_svg(figure, "robust-escape", "Escape and overkill over the severity of each kind of worse pictures")


def _panels(found: Robustness, fields: Sequence[str]) -> Figure:
    corruptions = list(dict.fromkeys(curve.corruption for curve in found.curves))
    names = [row.name for row in found.rows]
    looks = dict(zip(names, zip(itertools.cycle(SERIES), itertools.cycle(MARKERS), strict=False), strict=False))
    count = len(corruptions) + 1  # the last panel holds the legend
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(2 * HALF, 2.15 * rows), layout=ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.07))
    grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    lowest = 1.0
    for axes, corruption in zip(grid.flat, corruptions, strict=False):
        axes.set_title(corruption[0].upper() + corruption[1:])
        for curve in (curve for curve in found.curves if curve.corruption == corruption):
            colour, marker = looks[curve.network]
            for field in fields:
                values: list[float] = getattr(curve, field)
                lowest = min(lowest, *values)
                style: dict[str, Any] = {"color": colour, "marker": marker, **LINES[field]}
                axes.plot(range(len(values)), values, linewidth=1.5, markersize=3.8, clip_on=False, **style)
        axes.tick_params(labelbottom=True)
    _same_axes(grid[0, 0], lowest)
    figure.supxlabel("severity; 0 are the pictures as they are", size=9.5, color=MUTED)
    for axes in grid.flat[count - 1 :]:
        axes.set_axis_off()
    _legend(grid.flat[count - 1], looks, fields)
    return figure


def _same_axes(axes: Axes, lowest: float) -> None:
    axes.set_ylim(STRIDE * (lowest // STRIDE), 1.0)
    axes.yaxis.set_major_locator(MultipleLocator(STRIDE))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.set_xlim(-0.15, 5.15)
    axes.xaxis.set_major_locator(MultipleLocator(1))


def _legend(axes: Axes, looks: dict[str, tuple[str, str]], fields: Sequence[str]) -> None:
    most = 68 if len(looks) < 4 else 34  # letters of a name; a line of the panel holds 34
    entries = [
        Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=1.8, label=fill(shorten(name, most), 34))
        for name, (colour, marker) in looks.items()
    ]
    if len(fields) > 1:
        entries += [Line2D([], [], color=INK, marker="o", linewidth=1.5, label=f, **LINES[f]) for f in fields]
    place: dict[str, Any] = {"loc": "upper left", "borderaxespad": 0, "labelspacing": 0.7, "handlelength": 2.8}
    axes.legend(handles=entries, frameon=False, fontsize=9.5, **place).set_in_layout(False)
