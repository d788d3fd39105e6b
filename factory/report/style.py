"""What the figures have in common: colours, type, and how a figure becomes text of the page."""

from __future__ import annotations

import io
import re
import warnings
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1c2833", "#5d6b78", "#e4e9ed"
BLUE, VERMILION = "#0a6aa8", "#cc4e0b"
SERIES = (BLUE, VERMILION, "#00876c", "#b0568f", "#c98a00", "#4aa3d8", "#6b6f76")
SEQUENCE = LinearSegmentedColormap.from_list("small to large", ["#9fd3c7", "#3f93b5", "#2b4c8c", "#2a1a4a"])
DASHES = (0, (5, 3))
HALF = 5.94  # inches: half the width of the page at 96 px an inch

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": "#b6c0c9",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": "#b6c0c9",
    "ytick.color": "#b6c0c9",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
}


def upright(axes: Axes, x: float, text: str, colour: str, *, height: float, dashed: bool = False) -> None:
    """A line across the axes, named at that share of their height on the side with more room."""
    axes.axvline(x, color=colour, linewidth=1.3, linestyle=DASHES if dashed else "-", zorder=2)
    left = x > sum(axes.get_xlim()) / 2
    axes.annotate(
        text,
        (x, height),
        (-5 if left else 5, 0),
        ("data", "axes fraction"),
        "offset points",
        ha="right" if left else "left",
        va="top",
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        zorder=5,
    )


def mix(colour: str, weight: float) -> tuple[float, float, float]:
    """White with that share, 0 to 1, of the colour in it."""
    red, green, blue = (1 + weight * (channel - 1) for channel in to_rgb(colour))
    return red, green, blue


def shorten(text: str, most: int) -> str:
    """A text of at most that many letters, its middle left out where it was longer."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def to_svg(figure: Figure, name: str, described: str) -> str:
    """The figure as an SVG element without a size of its own; the name, once a page, goes before every id."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The browser draws the letters, with fonts that matplotlib need not have.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", dpi=220, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = head.partition('viewBox="')[2].partition('"')[0]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(described)}">{body}'


def to_svg_file(figure: Figure, name: str, described: str) -> str:
    """The same as a file of its own, on white."""
    head, body = to_svg(figure, name, described).split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg" style="background: white">{body}'
