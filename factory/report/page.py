"""The page of a run: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import math
import os
import re
import tempfile
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from PIL import Image

from factory.report import figures, robustness_figure
from factory.report.model import AcceptanceRow, Bounded, Budget, NetworkRow, RunReport

MOST_MISTAKES = 24
LARGEST_SIDE = 320
ABSENT = "–"


@dataclass(frozen=True, slots=True)
class Tile:
    """One key figure of the headline band; `passed` None where nothing was asked."""

    label: str
    value: str
    unit: str
    asked: str
    detail: str
    passed: bool | None


def render(report: RunReport) -> str:
    """The whole page; the same report gives the same text."""
    return template("page.html.j2").render(
        r=report,
        tiles=_tiles(report),
        figures={name: Markup(svg) for name, svg in _figures(report).items()},
        pictures=[picture(mistake.image) for mistake in report.mistakes[:MOST_MISTAKES]],
        created=_moment(report.created),
        wrong=int(report.confusion.sum() - np.trace(report.confusion)),
        lowest=_tenth_below(report),
        on_front=sum(point.on_front for point in report.search_points),
        kinds=list(dict.fromkeys(curve.corruption for curve in report.robustness.curves)) if report.robustness else [],
    )


def write(report: RunReport, path: Path) -> None:
    """Write the page whole or not at all; a file already there stays until the new one is safe on disk."""
    write_text(render(report), path)


def write_text(text: str, path: Path) -> None:
    """Write a text whole or not at all, as `write` does."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    beside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.chmod(0o644)
        os.replace(beside, path)  # noqa: PTH105
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def template(name: str) -> Template:
    """A template of this folder, with the filters of the page."""
    environment = Environment(
        loader=FunctionLoader(lambda own: (files("factory.report") / own).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": _share,
        "number": _number,
        "quantity": _quantity,
        "count": lambda value: f"{value:,}",
        "seconds": _seconds,
        "genome": _genome,
        "interval": _interval,
        "bounded": _bounded,
        "points": _points,
        "position": _position,
    }
    return environment.get_template(name)


def _tiles(report: RunReport) -> list[Tile]:
    delivered = next((row for row in report.networks if row.delivered), None)
    sorts = report.good is None
    shares = [
        _share_tile(report, delivered, "balanced accuracy", "balanced_accuracy", ""),
        _share_tile(report, delivered, "escape", "escape", "this line sorts, it has no good class" if sorts else ""),
        _share_tile(
            report,
            delivered,
            "overkill",
            "overkill",
            "this line sorts, it has no good class" if sorts else "",
        ),
    ]
    return shares + [_budget_tile(budget) for budget in report.budgets]


def _share_tile(report: RunReport, delivered: NetworkRow | None, label: str, field: str, absent: str) -> Tile:
    row = next((row for row in report.acceptance if row.metric.lower().startswith(label)), None)
    value = row.value if row else getattr(delivered, field, None)
    if value is None or not math.isfinite(value):
        return Tile(label, ABSENT, "", "", absent or "not measured", None)
    interval = _interval(row) if row else ""
    asked = f"asked {row.limit}" if row and row.limit else ""
    return Tile(label, f"{100 * value:.1f}", "%", asked, interval, row.passed if row else None)


def _budget_tile(budget: Budget) -> Tile:
    asked = "no budget" if budget.limit is None else f"budget {_quantity(budget.limit, budget.unit)}"
    foretold = "" if budget.predicted is None else f"predicted {_quantity(budget.predicted, budget.unit)}"
    passed = None if budget.limit is None else budget.passed
    return Tile(budget.name, _number(budget.measured), budget.unit, asked, foretold, passed)


def _figures(report: RunReport) -> dict[str, str]:
    """The figures that this report has data for, by the name the template knows them by."""
    limits = {budget.name: budget.limit for budget in report.budgets}
    drawn: dict[str, str] = {}
    if report.search_points:
        points, chosen = report.search_points, report.chosen_genome
        drawn["search_latency"] = figures.score_against_latency(points, chosen, limits.get("latency"))
        drawn["search_size"] = figures.score_against_size(points, chosen, limits.get("size"))
    if report.curves:
        drawn["loss"] = figures.training_loss(report.curves)
        drawn["accuracy"] = figures.training_accuracy(report.curves)
    if report.confusion.size:
        drawn["confusion"] = figures.confusion_matrix(report.confusion, report.labels)
    scores, defective = report.reject_scores, report.defective
    if report.good is not None and report.threshold is not None and scores is not None and defective is not None:
        drawn["rejects"] = figures.reject_scores(scores, defective, report.threshold)
    if report.latency_samples_ms.size:
        drawn["latency"] = figures.latency_distribution(report.latency_samples_ms, limits.get("latency"))
    if report.training and report.training.pilot:
        drawn["pilot"] = report.training.pilot[1]
    if report.robustness:
        drawn["robust_accuracy"] = robustness_figure.balanced_accuracy(report.robustness)
        if report.robustness.good is not None:
            drawn["robust_escape"] = robustness_figure.escape_and_overkill(report.robustness)
    return drawn


def picture(pixels: npt.NDArray[np.uint8]) -> str:
    """A data URI of an image uint8 (H, W, C), made smaller when one of its sides is beyond the largest."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _moment(created: datetime | str) -> str:
    return created if isinstance(created, str) else f"{created.day} {created:%B %Y, %H:%M %Z}".strip()


def _share(value: float | None, digits: int = 1) -> str:
    return ABSENT if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def _number(value: float | None) -> str:
    """Three significant digits, plainly written."""
    if value is None or not math.isfinite(value):
        return ABSENT
    digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def _quantity(value: float | None, unit: str) -> str:
    """A number in its unit: "%" for a share, "" for a bare number to three decimals."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if unit == "%":
        return _share(value)
    return f"{_number(value)} {unit}" if unit else f"{value:.3f}"


def _interval(row: AcceptanceRow) -> str:
    if row.low is None or row.high is None:
        return ABSENT
    low, high = _quantity(row.low, row.unit), _quantity(row.high, row.unit)
    return f"{low.removesuffix(f' {row.unit}')} – {high}"


def _points(difference: tuple[float, float, float] | None) -> str:
    """A difference of shares and its bounds, in percentage points."""
    if difference is None:
        return ABSENT
    value, low, high = (f"{round(100 * share, 1) + 0.0:+.1f}" for share in difference)  # + 0.0: no "-0.0"
    return f"{value} ({low} to {high})"


def _bounded(value: Bounded, unit: str = "") -> str:
    """A number with its interval behind it."""
    middle, low, high = (_quantity(number, unit) for number in value)
    return f"{middle} ({low.removesuffix(' %')} – {high})"


def _tenth_below(report: RunReport) -> float:
    """Where the bars of recall begin, so that their intervals can be told apart."""
    lows = [row.low for row in report.classes if math.isfinite(row.low)]
    return max(0, math.floor(10 * min([0.9, *lows]) - 1e-9)) / 10


def _position(value: float, start: float = 0.0) -> str:
    """A share as a place along a bar that runs from `start` to 1, for CSS."""
    return f"{100 * min(max((value - start) / (1 - start), 0.0), 1.0):.2f}%"


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _genome(text: str) -> Markup:
    """A genome, or a path, that may break after its separators."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[,;|/_.+:-])", text))
