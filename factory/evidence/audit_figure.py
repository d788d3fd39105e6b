"""The figure of an audit: what scores say of each network against what training made of it, and when that settles."""

from collections.abc import Mapping
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from factory.evidence.advice import LABELS, formula, interval, scope
from factory.evidence.settling import SETTLED
from factory.report.style import BLUE, DASHES, HALF, INK, MUTED, STYLE, VERMILION, shorten, to_svg_file

UNITS: Final = {"swap": "distinct activation patterns", "latency": "ms", "params": "", "macs": "of one image"}


@matplotlib.rc_context(STYLE)
def audit_figure(document: Mapping[str, Any]) -> str:
    """Draw the document of an audit: the text of an SVG file."""
    return to_svg_file(
        panels(document), "audit", "Scores against trained results, and when the order of the results settles"
    )


def panels(document: Mapping[str, Any]) -> Figure:
    """SWAP-Score and the chosen ranking against the trained results, and below them the order along the training."""
    names = list(dict.fromkeys(("swap", document["ranked_by"])))
    figure = Figure(figsize=(1.6 * HALF, 6.2))
    figure.suptitle(f"{document['line']}: {scope(document)}", x=0.01, ha="left", weight="bold", fontsize=11)
    grid = figure.add_gridspec(2, len(names), height_ratios=(1.75, 1))
    first: Axes | None = None
    for column, name in enumerate(names):
        axes = figure.add_subplot(grid[0, column], sharey=first)
        _scatter(axes, document, name, VERMILION if name == "swap" and not document["trusted"] else BLUE)
        if first is None:
            axes.set_ylabel("validation loss (low is good)")
            axes.invert_yaxis()  # so that up is better on both axes
        else:
            axes.tick_params(labelleft=False)
        first = first or axes
    _settling(figure.add_subplot(grid[1, :]), document)
    return figure


def _scatter(axes: Axes, document: Mapping[str, Any], name: str, colour: str) -> None:
    nets = document["networks"]
    x, y = ([net["scores"][name] for net in nets], [net["val_loss"] for net in nets])
    best = int(np.argmin(y))
    axes.scatter(x, y, s=30, color=colour, alpha=0.75, linewidths=0)
    axes.scatter(x[best], y[best], s=110, facecolors="none", edgecolors=INK, linewidths=1.4)
    axes.annotate("best", (x[best], y[best]), (0, 9), textcoords="offset points", ha="center", size=8.5)
    axes.margins(0.09, 0.14)
    row = next(row for row in document["scores"] if row["score"] == name)
    known = "no value" if row["spearman"] is None else interval(row)
    heading = LABELS[name][0].upper() + LABELS[name][1:]
    axes.set_title(f"{heading}\nrank correlation {known}", color=colour)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_xlabel(_across(document, name))


def _across(document: Mapping[str, Any], name: str) -> str:
    if name == "refitted":
        return f"log score by the other networks; of all: {shorten(formula(document['ranking']), 56)}"
    if name in UNITS:
        return f"{LABELS[name]}{f' ({UNITS[name]})' if UNITS[name] else ''}"
    return shorten(formula(document["ranking"]), 60)


def _settling(axes: Axes, document: Mapping[str, Any]) -> None:
    known = [(row["epoch"], row["spearman"]) for row in document["curve"] if row["spearman"] is not None]
    axes.axhline(SETTLED, color=MUTED, linewidth=1.1, linestyle=DASHES)
    place: dict[str, Any] = {"xytext": (0, -4), "textcoords": "offset points", "va": "top", "size": 8.5}
    axes.annotate(f"{SETTLED}", (0.005, SETTLED), xycoords=("axes fraction", "data"), color=MUTED, **place)
    if known:
        axes.plot(*zip(*known, strict=True), color=BLUE, linewidth=1.6, marker="o", markersize=4)
    at = document["settles_at_epoch"]
    if at is not None and at < document["epochs"]:
        axes.axvline(at, color=INK, linewidth=1.2)
        axes.annotate(f"settled from epoch {at}", (at, 0.03), (6, 0), ("data", "axes fraction"), "offset points")
    low = min([0.0, *(value for _, value in known)])
    axes.set_ylim(low - 0.05, 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlim(0.5, document["epochs"] + 0.5)
    axes.set_xlabel("epoch")
    axes.set_ylabel("correlation\nwith the last epoch")
    axes.set_title("Order of the networks along the training")
