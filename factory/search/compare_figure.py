"""The figure of a comparison: how the scores of two restrictions are distributed."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from factory.report.style import BLUE, HALF, MUTED, STYLE, VERMILION, shorten, to_svg_file


@matplotlib.rc_context(STYLE)
def comparison_figure(document: Mapping[str, Any]) -> str:
    """Empirical distributions of the scores of `compare`'s document, their medians marked: the text of an SVG file."""
    return to_svg_file(
        curves(document), "compare", "Empirical distribution of the score in two restrictions of the space"
    )


def curves(document: Mapping[str, Any]) -> Figure:
    """Draw one curve a restriction: the share of its networks that score at most so much."""
    figure = Figure(figsize=(HALF, 3.9))
    axes = figure.subplots()
    axes.axhline(0.5, color=MUTED, linewidth=0.8)
    for letter, row, colour in zip("AB", document["restrictions"], (BLUE, VERMILION), strict=True):
        scores = np.array(row["scores"])
        heights = np.arange(1, len(scores) + 1) / len(scores)
        label = f"{letter}: {shorten(row['restriction'], 44)} ({row['n']} networks)"
        axes.step(np.append(scores[0], scores), np.append(0, heights), where="post", color=colour, label=label)
        axes.plot(row["quantiles"]["50"], 0.5, "o", color=colour, markersize=5, zorder=4)
    axes.set_ylim(-0.01, 1.01)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{score:.4g}"))
    axes.set_xlabel("score without training; a curve further to the right is better")
    axes.set_ylabel("networks that score at most so much")
    figure.legend(loc="outside upper left", frameon=False)
    return figure
