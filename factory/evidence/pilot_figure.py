"""The figure of a pilot: what the first seed said of every noise, and what the best gain over the plain network."""

from collections.abc import Mapping
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from factory.report.style import BLUE, HALF, INK, MUTED, STYLE, VERMILION, shorten, to_svg, to_svg_file

DESCRIBED: Final = "What each noise gains over the plain network"


@matplotlib.rc_context(STYLE)
def pilot_figure(document: Mapping[str, Any]) -> str:
    """Draw the document of a pilot: the text of an SVG file."""
    return to_svg_file(panels(document), "pilot", DESCRIBED)


@matplotlib.rc_context(STYLE)
def pilot_svg(document: Mapping[str, Any]) -> str:
    """The same as an element of a page."""
    return to_svg(panels(document), "pilot", DESCRIBED)


def panels(document: Mapping[str, Any]) -> Figure:
    """The first seed's losses of all arms beside the judged gains of those that went on."""
    first, judged = document["first"], document["judged"]
    figure = Figure(figsize=(2 * HALF, 0.36 * len(first) + 1.5))
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1))
    _losses(left, first, [row["name"] for row in judged])
    _gains(middle, judged[1:], "loss_gain", 1.0, "loss saved")
    _gains(right, judged[1:], "accuracy_gain", 100.0, "accuracy gained (points)")
    right.tick_params(labelleft=False)
    left.set_title("First seed: who goes on")
    middle.set_title(f"{document['seeds']} further seeds, 95 % intervals")
    figure.suptitle(
        f"{document['line']}: {document['epochs']} epochs on {document['images']['trained']} images, "
        f"judged on {document['images']['judged']} others",
        x=0.01, ha="left", weight="bold", fontsize=11,
    )  # fmt: skip
    return figure


def _losses(axes: Axes, first: Mapping[str, float], kept: list[str]) -> None:
    rising = sorted(first, key=lambda name: -first[name])
    colours = [INK if name == kept[0] else BLUE if name in kept else MUTED for name in rising]
    axes.scatter([first[name] for name in rising], range(len(rising)), s=38, color=colours, zorder=3)
    axes.set_yticks(range(len(rising)), [shorten(name, 40) for name in rising])
    axes.axvline(first[kept[0]], color=INK, linewidth=1)
    axes.set_xlabel("loss on unseen images")
    axes.margins(0.08, 0.08)


def _gains(axes: Axes, judged: list[dict[str, Any]], field: str, scale: float, named: str) -> None:
    for place, row in enumerate(reversed(judged)):
        low, value, high = (scale * row[field][key] for key in ("low", "value", "high"))
        colour = BLUE if low > 0 else VERMILION if high < 0 else MUTED
        axes.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
        axes.scatter([value], [place], s=44, color=colour, zorder=3)
    axes.set_yticks(range(len(judged)), [shorten(row["name"], 40) for row in reversed(judged)])
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_ylim(-0.6, len(judged) - 0.4)
    axes.set_xlabel(named)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.1)
