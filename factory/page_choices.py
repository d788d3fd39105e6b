"""The parts of a run's page on choices: ways of training, precisions, networks for kinds of station, review."""

from typing import Any

from factory.evidence.pilot_figure import pilot_svg
from factory.inspection import INSPECTION
from factory.kinds import verdict
from factory.outcome import Results
from factory.report import model as m
from factory.search.shortlist import Entry
from factory.training.modes import FINISHED, PLAIN
from factory.training.tuition import ALONE, TAUGHT
from factory.workspace import read_json


def _bounded(estimate: dict[str, float]) -> m.Bounded:
    return estimate["value"], estimate["low"], estimate["high"]


def _gap(gap: dict[str, Any]) -> str:
    """What one way has more than another, said with its certainty."""
    accuracy, loss = _bounded(gap["balanced_accuracy"]), _bounded(gap["loss"])
    sure = "" if loss[1] * loss[2] > 0 or accuracy[1] * accuracy[2] > 0 else ", which chance could make"
    return (
        f"{gap['name'].capitalize()} against {gap['over']}: {100 * accuracy[0]:+.1f} points of balanced accuracy "
        f"({100 * accuracy[1]:+.1f} to {100 * accuracy[2]:+.1f}) and {loss[0]:+.3f} of loss "
        f"({loss[1]:+.3f} to {loss[2]:+.3f}){sure}."
    )


def _ways(document: dict[str, Any] | None, delivered: str | None) -> m.Ways | None:
    if document is None:
        return None
    rows = [
        m.WayRow(
            row["name"],
            row["accuracy"]["value"],
            _bounded(row["balanced_accuracy"]),
            _bounded(row["loss"]),
            row["calibration_error"],
            row["escape"] and row["escape"]["value"],
            row["overkill"] and row["overkill"]["value"],
            row["ms"],
            delivered=row["name"] == delivered,
        )
        for row in document["rows"]
    ]
    return m.Ways(rows, [_gap(gap) for gap in document["gaps"]])


def training(results: Results, pilot: dict[str, Any] | None) -> m.Training:
    """What noise and a teacher gave."""
    way = results.chosen.way
    mode = None if way.taught else PLAIN if way.swapout.noise.silent else FINISHED
    student = TAUGHT if way.taught else ALONE if way.swapout.noise.silent else None
    drawn = None if pilot is None else (pilot["sentence"], pilot_svg(pilot))
    return m.Training(_ways(results.modes, mode), _ways(results.tuition, student), drawn)


def _more(results: Results, precision: str) -> tuple[float | None, float | None, float | None]:
    found = results.choice["measured"].get(precision)
    if found is None:
        return None, None, None
    return found["after_idle"]["p50_ms"], found["together"]["frames_per_s"], found["memory_mb"]


def variants(results: Results) -> list[m.VariantRow]:
    """The delivered network in every precision."""

    def flow(counts: dict[str, int] | None) -> str | None:
        return (
            None if counts is None else f"{counts['after']} of {counts['total']} (+{counts['new']} −{counts['gone']})"
        )

    chosen, timed = results.chosen, results.timed[results.chosen.genome]
    rows = []
    for row in chosen.gate["variants"]:
        parity, own = row["parity"], row in chosen.runnable
        rows.append(
            m.VariantRow(
                row["precision"] if row["place"] == "any" else f"{row['precision']}, {row['place']}",
                row["calibration"],
                row["size_mb"],
                timed[row["precision"]]["p50_ms"] if own and row["precision"] in timed else None,
                *(_more(results, row["precision"]) if own else (None, None, None)),
                row["balanced_accuracy"],
                flow(row["escapes"]),
                flow(row["overkill"]),
                f"{parity['decisions_changed']} of {parity['images']}",
                row["reasons"],
                delivered=own and row["precision"] == chosen.precision,
            )
        )
    return rows


def _weighed(entry: Entry) -> m.Weighed:
    return m.Weighed(entry.latency_ms, entry.val_balanced_accuracy, entry.val_loss)


def kinds(results: Results) -> m.Kinds | None:
    """Which network each kind of station gets; None on a line with one kind."""
    if not results.kinds:
        return None
    rows = [
        m.KindRow(
            kind.device,
            kind.budget_ms,
            kind.own.candidate.genome,
            _weighed(kind.own),
            None if kind.shared is None else _weighed(kind.shared),
            here=kind.device == results.device.name,
        )
        for kind in results.kinds
    ]
    delivered = "The same network goes to all of them." if results.line.search.one_network else "Each gets its own."
    return m.Kinds(rows, f"{verdict(results.kinds)} {delivered}")


_NAMES = {"escape": "Escape (defects passed)", "overkill": "Overkill (good rejected)", "wrong class": "Wrong class"}


def review(results: Results) -> m.Review:
    """What goes to a person, and what that brings."""
    found = read_json(results.inspection.path / INSPECTION)
    asked = results.line.inspection
    note = (
        f"A picture is unlike where its novelty is above that of all but {100 * asked.novelty_share:g} % of the "
        f"{found['validation']} validation images."
    )
    if found["too_few"]:
        note = (
            f"The {found['validation']} validation images are too few to set a limit that {100 * asked.novelty_share:g}"
            " % exceed; it is the largest novelty among them."
        )
    if results.line.classes.good is not None:
        note += f" Near the threshold are the scores of {100 * asked.review_share:g} % of them."
    mistakes = [
        m.MistakeRow(_NAMES[name], _bounded(row["alone"]), _bounded(row["with_person"]))
        for name, row in found["mistakes"].items()
    ]
    shares = {name: _bounded(share) for name, share in found["shares"].items()}
    return m.Review(found["images"], shares["review"], shares["near"], shares["unlike"], mistakes, note)
