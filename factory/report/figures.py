"""The plots of the page, each one SVG text that scales to the width of its container.

Letters stay text, so the page draws them in its own font and a reader can search them. The same input gives
the same bytes; every id carries the name of its figure, so several may stand in one page.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from factory.report.model import Curve, FloatArray, SearchPoint
from factory.report.style import (
    BLUE,
    DASHES,
    HALF,
    INK,
    SEQUENCE,
    SERIES,
    STYLE,
    VERMILION,
    mix,
    shorten,
    to_svg,
    upright,
)

MOST_VECTOR_POINTS = 2500

Series = tuple[str, Sequence[int], Sequence[float | None]]
End = tuple[str, float, float]


@matplotlib.rc_context(STYLE)
def score_against_latency(points: Sequence[SearchPoint], chosen: str, limit_ms: float | None) -> str:
    """Score over latency (ms, predicted but on the front), coloured by size (MB); `chosen` is the genome to mark."""
    return _search("latency", points, chosen, limit_ms)


@matplotlib.rc_context(STYLE)
def score_against_size(points: Sequence[SearchPoint], chosen: str, limit_mb: float | None) -> str:
    """Score over size (MB), coloured by latency (ms, predicted but on the front); `chosen` is the genome to mark."""
    return _search("size", points, chosen, limit_mb)


@matplotlib.rc_context(STYLE)
def training_loss(curves: Sequence[Curve]) -> str:
    """Loss over epochs; trainings of at most half the longest get a panel of their own."""
    figure = _trainings([(curve.name, curve.epochs, curve.loss) for curve in curves])
    return to_svg(figure, "loss", "Loss on the training images over the epochs")


@matplotlib.rc_context(STYLE)
def training_accuracy(curves: Sequence[Curve]) -> str:
    """Validation balanced accuracy over epochs, in the panels and colours of the loss."""
    figure = _trainings([(curve.name, curve.epochs, curve.balanced_accuracy) for curve in curves])
    for axes in figure.axes:
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    return to_svg(figure, "accuracy", "Balanced accuracy on the validation images over the epochs")


@matplotlib.rc_context(STYLE)
def confusion_matrix(confusion: npt.NDArray[np.integer], labels: Sequence[str]) -> str:
    """Counts and shares of each row; int (K, K), rows truth, columns decided, in the order of `labels`."""
    many = len(labels)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(HALF, max(4.1, 0.42 * many)))
    axes = figure.subplots()
    axes.grid(False)
    axes.imshow(_tint(shares), aspect="auto", interpolation="nearest")
    axes.set_xticks(np.arange(many - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(many - 1) + 0.5, minor=True)
    axes.grid(True, which="minor", color="white", linewidth=3)
    slant: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if many > 4 else {}
    axes.set_xticks(range(many), [shorten(label, 18) for label in labels], **slant)
    axes.set_yticks(range(many), [shorten(label, 18) for label in labels])
    axes.tick_params(which="both", length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("decided")
    axes.set_ylabel("truth")
    for row, column in np.ndindex(many, many):
        _cell(axes, (row, column), int(confusion[row, column]), float(shares[row, column]), many)
    return to_svg(figure, "confusion", "Confusion matrix, rows truth, columns decided")


@matplotlib.rc_context(STYLE)
def reject_scores(scores: FloatArray, defective: npt.NDArray[np.bool_], threshold: float) -> str:
    """Histograms of the reject score, good above defective; float (N,), bool (N,)."""
    figure = Figure(figsize=(HALF, 4.1))
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    edges = _edges_through(threshold, scores)
    tallest = 1
    for axes, kind, colour in zip(panels, (False, True), (BLUE, VERMILION), strict=True):
        own = scores[defective == kind]
        counts, _ = np.histogram(own, edges)
        wrong = (edges[:-1] < threshold) == kind
        tallest = max(tallest, int(counts.max()))
        axes.bar(
            edges[:-1],
            counts,
            np.diff(edges),
            align="edge",
            color=[colour if bad else mix(colour, 0.42) for bad in wrong],
            edgecolor="white",
            linewidth=0.6,
        )
        axes.axvline(threshold, color=INK, linewidth=1.3)
        failed = int(np.sum((own >= threshold) != kind))
        said = f"{failed:,} of {own.size:,} passed" if kind else f"{failed:,} of {own.size:,} rejected"
        axes.set_title(f"Defective: {said}" if kind else f"Good: {said}", color=colour)
        _log_counts(axes)
    panels[0].set_ylim(0.6, tallest * 2.2)
    upright(panels[0], threshold, f"threshold {threshold:.4g}", INK, height=0.99)
    panels[1].set_xlabel("reject score")
    return to_svg(figure, "rejects", "Histogram of the reject score of good and defective images")


@matplotlib.rc_context(STYLE)
def latency_distribution(samples_ms: FloatArray, limit_ms: float | None) -> str:
    """Histogram of measured latencies, float (M,) in ms, with median, 95th percentile and budget."""
    median, p95, top = (float(np.percentile(samples_ms, q)) for q in (50, 95, 99.5))
    budget = median if limit_ms is None else limit_ms
    low, high = min(float(samples_ms.min()), budget), max(top, p95 * 1.02, budget)
    margin = 0.06 * (high - low) or 0.05 * high
    figure = Figure(figsize=(HALF, 3.3))
    axes = figure.subplots()
    counts, edges = np.histogram(np.minimum(samples_ms, high), bins=60, range=(low, high + 1e-9))
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=mix(BLUE, 0.5), edgecolor="none")
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(0, counts.max() * 1.45)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    upright(axes, median, f"median {median:.3g} ms", BLUE, height=0.99)
    upright(axes, p95, f"95 % within {p95:.3g} ms", INK, height=0.89)
    if limit_ms is not None:
        upright(axes, limit_ms, f"budget {limit_ms:.3g} ms", VERMILION, height=0.79, dashed=True)
    axes.set_xlabel("latency of one image (ms)")
    axes.set_ylabel("runs")
    return to_svg(figure, "measured", "Distribution of the measured latency")


def _search(over: str, points: Sequence[SearchPoint], chosen: str, limit: float | None) -> str:
    table = np.array([(p.score, p.latency_ms, p.size_mb, p.on_front) for p in points], dtype=np.float64)
    score, latency, size = table[:, 0], table[:, 1], table[:, 2]
    front = table[:, 3] > 0
    by_latency, by_size = (latency, "latency (ms, measured on the front)", "ms"), (size, "size (MB)", "MB")
    (across, named, unit), (shade, shaded, _) = (by_latency, by_size) if over == "latency" else (by_size, by_latency)
    figure = Figure(figsize=(HALF, 4.1))
    axes = figure.subplots()
    drawn = _cloud(axes, across, score, shade, front)
    beyond = "max" if shade.max() > drawn.norm.vmax else "neither"
    bar = figure.colorbar(drawn, ax=axes, fraction=0.035, pad=0.02, aspect=30, label=shaded, extend=beyond)
    bar.outline.set_visible(False)
    axes.margins(0.05, 0.09)
    if limit is not None and limit <= 1.6 * across.max():
        _beyond_budget(axes, limit, f"budget {limit:.3g} {unit}")
    marked = [i for i, point in enumerate(points) if point.genome == chosen]
    if marked:
        _ring(axes, float(across[marked[0]]), float(score[marked[0]]))
    axes.set_xlabel(named)
    axes.set_ylabel("score without training")
    return to_svg(figure, f"search-{over}", f"Score against {named}, coloured by {shaded}")


def _cloud(
    axes: Axes, across: FloatArray, score: FloatArray, shade: FloatArray, front: npt.NDArray[np.bool_]
) -> PathCollection:
    """All points, those of the front outlined, and the best score of the front up to each place."""
    colours: dict[str, Any] = {"cmap": SEQUENCE, "vmin": shade.min(), "vmax": np.percentile(shade, 97)}
    heavy = bool(across.size > MOST_VECTOR_POINTS)
    rest: dict[str, Any] = {"s": 9, "alpha": 0.45, "linewidths": 0, "rasterized": heavy, **colours}
    best: dict[str, Any] = {"s": 20, "edgecolors": "white", "linewidths": 0.6, "zorder": 4, **colours}
    axes.scatter(across[~front], score[~front], c=shade[~front], **rest)
    if front.any():
        order = np.argsort(across[front])
        places = np.append(across[front][order], across.max())
        heights = np.maximum.accumulate(np.append(score[front][order], -np.inf))
        axes.step(places, heights, where="post", color=INK, linewidth=1.2, zorder=3)
    return axes.scatter(across[front], score[front], c=shade[front], **best)


def _beyond_budget(axes: Axes, limit: float, text: str) -> None:
    axes.axvline(limit, color=VERMILION, linewidth=1.3, linestyle=DASHES, zorder=2)
    above = ("data", "axes fraction")
    axes.annotate(text, (limit, 1), (0, 3), above, "offset points", ha="center", color=VERMILION)
    low, high = axes.get_xlim()
    axes.axvspan(limit, high, color=VERMILION, alpha=0.045, linewidth=0, zorder=0)
    axes.set_xlim(low, high)


def _ring(axes: Axes, x: float, y: float) -> None:
    axes.scatter([x], [y], s=120, facecolors="none", edgecolors=VERMILION, linewidths=2, zorder=6)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
    place: dict[str, Any] = {"xytext": (0, 11), "textcoords": "offset points", "ha": "center", "bbox": box}
    axes.annotate("chosen", (x, y), color=VERMILION, weight="bold", zorder=7, **place)


def _trainings(series: Sequence[Series]) -> Figure:
    longest = max(len(epochs) for _, epochs, _ in series)
    colours = dict(zip(dict.fromkeys(name for name, _, _ in series), itertools.cycle(SERIES), strict=False))
    short = [line for line in series if 2 * len(line[1]) <= longest]
    full = [line for line in series if 2 * len(line[1]) > longest]
    groups = {"Short trainings": short, "Full trainings": full} if short else {"": full}
    figure = Figure(figsize=(HALF, 2.5 * len(groups) + 0.7))
    panels = figure.subplots(len(groups), 1, squeeze=False, sharey=True)[:, 0]
    ends = [_lines(axes, group, colours) for axes, group in zip(panels, groups.values(), strict=True)]
    # Names are placed once all lines are drawn: the panels share their limits.
    for axes, title, own in zip(panels, groups, ends, strict=True):
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        _name_ends(axes, own, colours)
    panels[-1].set_xlabel("epoch")
    return figure


def _lines(axes: Axes, series: Sequence[Series], colours: Mapping[str, str]) -> list[End]:
    """Draw each series and return where it ends."""
    ends: list[End] = []
    for name, epochs, values in series:
        known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
        if known:
            marker = "o" if len(known) < 4 else ""
            axes.plot(*zip(*known, strict=True), color=colours[name], linewidth=1.5, marker=marker, markersize=3.5)
            ends.append((name, *known[-1]))
    axes.margins(0.02, 0.08)
    return ends


def _name_ends(axes: Axes, ends: Sequence[End], colours: Mapping[str, str]) -> None:
    low, high = axes.get_ylim()
    rising = sorted(ends, key=lambda end: end[2])
    spots = _spread([y for _, _, y in rising], 0.09 * (high - low), low, high)
    last = max((x for _, x, _ in ends), default=0.0)
    for (name, _, _), y in zip(rising, spots, strict=True):
        place: dict[str, Any] = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(shorten(name, 24), (last, y), color=colours[name], size=8.5, annotation_clip=False, **place)


def _spread(rising: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Nearby places, moved apart to at least `gap`, their middle kept as far as the bounds allow."""
    placed: list[float] = []
    for value in rising:
        placed.append(max(value, placed[-1] + gap) if placed else value)
    if not placed:
        return []
    shift = max((sum(placed) - sum(rising)) / len(placed), placed[-1] - high)
    shift = min(shift, max(placed[0] - low - gap / 2, 0.0))
    return [value - shift for value in placed]


def _cell(axes: Axes, place: tuple[int, int], count: int, share: float, many: int) -> None:
    colour = "white" if share > 0.55 else (INK if count else "#a9b4be")
    small = 8.0 if many > 8 else 9.0
    style: dict[str, Any] = {
        "xy": place[::-1],
        "textcoords": "offset points",
        "ha": "center",
        "color": colour,
    }
    if many > 10 or not count:
        axes.annotate(str(count), xytext=(0, 0), va="center", size=small, **style)
        return
    axes.annotate(f"{count:,}", xytext=(0, 1), va="bottom", size=small + (4 if many < 5 else 1), weight="bold", **style)
    axes.annotate(f"{100 * share:.1f} %", xytext=(0, -2), va="top", size=small, **style)


def _tint(shares: FloatArray) -> FloatArray:
    """White to blue on the diagonal, white to vermilion beside it: float (K, K) to RGB (K, K, 3)."""
    right = np.eye(len(shares), dtype=bool)[..., None]
    full = np.where(right, np.array(to_rgb(BLUE)), np.array(to_rgb(VERMILION)))
    pale = 0.955 * np.ones(3)
    weight = np.sqrt(shares)[..., None] * 0.95
    mixed: FloatArray = pale + weight * (full - pale)
    return mixed


def _edges_through(threshold: float, scores: FloatArray, bins: int = 40) -> FloatArray:
    """Equal bins over all scores, one edge at the threshold so that no bar lies on both sides."""
    low, high = min(float(scores.min()), threshold), max(float(scores.max()), threshold)
    width = (high - low) / bins or 1.0
    below, above = np.ceil((threshold - low) / width), np.floor((high - threshold) / width) + 1
    edges: FloatArray = threshold + width * np.arange(-max(below, 1), above + 1)
    return edges


def _log_counts(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator([1, 10, 100, 1000, 10_000, 100_000]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("images (log)")


def _percent(value: float, _: int | None) -> str:
    return f"{100 * value:.0f} %"
