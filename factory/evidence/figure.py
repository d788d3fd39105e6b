"""The figure of a correlation: a bar for every score, with its interval."""

from collections.abc import Mapping
from typing import Any, Final

import matplotlib
from matplotlib.figure import Figure

from factory.evidence.measures import OURS
from factory.report.style import BLUE, HALF, INK, MUTED, STYLE, mix, to_svg_file

GREY: Final = "#aab4bd"
BAR: Final = 0.27  # inches of height


@matplotlib.rc_context(STYLE)
def correlation_figure(document: Mapping[str, Any]) -> str:
    """Spearman of every score of `correlate`'s document with its 95 % interval, best first: the text of an SVG file."""
    return to_svg_file(bars(document), "correlate", "Spearman's rank correlation of every score, with 95 % intervals")


def bars(document: Mapping[str, Any]) -> Figure:
    """Draw the bars; scores without a correlation are named at the bottom without one."""
    rows = document["rows"]
    figure = Figure(figsize=(HALF, 1.1 + BAR * len(rows)))
    axes = figure.subplots()
    axes.grid(False, axis="y")
    lowest = min([0.0, *(row["low"] for row in rows if row["low"] is not None)])
    for place, row in enumerate(rows):
        value = row["spearman"]
        axes.barh(place, value or 0.0, 0.72, color=mix(BLUE, 0.75) if row["score"] in OURS else mix(GREY, 0.75))
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=INK, linewidth=1.3, solid_capstyle="butt")
        text = "no value" if value is None else f"{value:+.2f}"
        axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", color=MUTED, size=8.5)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(BLUE if row["score"] in OURS else INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(lowest - 0.02, 1)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel(f"Spearman's rank correlation with {_metric(document)}, 95 % interval")
    axes.set_title(f"{document['space']}: {document['n']:,} networks")
    return figure


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['score']}{' (table)' if row['source'] == 'table' else ''}"


def _metric(document: Mapping[str, Any]) -> str:
    where = ", ".join(document["where"].values())
    return f"{document['metric']}{f' of {where}' if where else ''}"
