"""The report of a run: from what the stages found to the values the page shows."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

import factory
from export.runtime.decision import decide, reject_scores, softmax
from factory import page_choices as choices
from factory.choice import asleep
from factory.evidence.advice import formula, scope
from factory.handover import bundle_id_of, versions
from factory.outcome import Results
from factory.report import model as m
from factory.report import page
from factory.search.saturation import SATURATED

METRICS: Final = {
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
    "escape": "Escape (defects passed)",
    "overkill": "Overkill (good rejected)",
}


def _acceptance(results: Results) -> list[m.AcceptanceRow]:
    limits = {check.name.rsplit("_", 1)[0]: check for check in results.checks}
    rows = []
    for name, title in METRICS.items():
        estimate = results.judged[name] or {"value": None, "low": None, "high": None}
        check = limits.get(name)
        sign = "≥" if check and check.name.endswith("min") else "≤"
        limit = f"{sign} {check.limit:.1%}".replace("%", " %") if check else None
        unit = "" if name == "auroc" else "%"
        passed = check.passed if check else None
        rows.append(m.AcceptanceRow(title, **estimate, limit=limit, passed=passed, unit=unit))
    return rows


def _networks(results: Results) -> list[m.NetworkRow]:
    rows = []
    names = [(results.judged, results.chosen, "delivered")]
    if results.reference is not None:
        names.append((results.judged_reference or {}, results.reference, "plain reference"))
    for judged, network, name in names:
        figures: dict[str, Any] = {key: (judged[key] or {}).get("value") for key in METRICS}
        rows.append(
            m.NetworkRow(
                name,
                **figures,
                latency_ms=results.bench[network.genome]["p50_ms"],
                size_mb=len(network.model) / 1e6,
                delivered=name == "delivered",
            )
        )
    chance = 1 / len(results.line.classes.labels)
    if results.line.classes.good is not None:
        rows.append(m.NetworkRow("pass everything", chance, 0.5, 1.0, 0.0, None, None, delivered=False))
    return rows


def _classes(results: Results) -> list[m.ClassRow]:
    counts = {label: sum(parts.values()) for label, parts in _test_counts(results).items()}
    rows = [m.ClassRow(k, counts[k], v["value"], v["low"], v["high"]) for k, v in results.judged["recalls"].items()]
    merged = results.line.classes.merge
    for raw, share in results.judged["raw_labels"].items() if merged else ():
        number = results.data.test.raw_labels.count(raw)
        rows.append(m.ClassRow(f"rejected of {raw!r}", number, share["value"], share["low"], share["high"]))
    return rows


def _test_counts(results: Results) -> dict[str, dict[str, int]]:
    return {label: {"test": parts["test"]} for label, parts in results.data_check["classes"].items()}


def _mistakes(
    results: Results, decided: list[str], scores: NDArray[np.float64], distance: NDArray[np.float64]
) -> list[m.Mistake]:
    test, labels = results.data.test, results.line.classes.labels
    wrong = [i for i in range(len(decided)) if decided[i] != labels[test.labels[i]]]
    wrong.sort(key=lambda i: -distance[i])
    escapes = [i for i in wrong if decided[i] == results.line.classes.good]
    others = [i for i in wrong if decided[i] != results.line.classes.good]
    half = page.MOST_MISTAKES // 2  # a missed defect is feared most, but must not push all others off the page
    shown = escapes[:half] + others + escapes[half:]
    return [
        m.Mistake(test.images[i], labels[test.labels[i]], decided[i], float(scores[i]), test.paths[i]) for i in shown
    ]


def _shortlist(results: Results) -> list[m.ShortlistRow]:
    return [
        m.ShortlistRow(
            entry.candidate.genome,
            entry.role,
            entry.candidate.score,
            entry.candidate.saturation,
            entry.latency_ms,
            entry.candidate.size_mb,
            entry.candidate.params,
            entry.val_balanced_accuracy,
            entry.candidate.genome == results.chosen.genome,
        )
        for entry in results.shortlist
    ]


def _curve(name: str, history: list[dict[str, float | None]]) -> m.Curve:
    epochs = list(range(1, len(history) + 1))
    return m.Curve(
        name,
        epochs,
        [float(row["loss"] or 0) for row in history],
        [r["val_balanced_accuracy"] for r in history],
    )


def _curves(results: Results) -> list[m.Curve]:
    curves = [_curve(entry.candidate.genome, entry.history) for entry in results.shortlist]
    curves.append(_curve("delivered, in full", results.chosen.history))
    if results.reference is not None:
        curves.append(_curve("reference, in full", results.reference.history))
    return curves


def _stages(results: Results) -> list[m.StageRow]:
    own = {stage.digest for stage in results.own_stages}
    return [
        m.StageRow(s.name if s.digest in own else f"{s.name}, not delivered", s.result, s.seconds, s.reused)
        for s in results.stages
    ]


def _headline(results: Results) -> str:
    judged, reference = results.judged, results.judged_reference
    own = judged["balanced_accuracy"]
    text = (
        f"The network's most probable class is right on {own['value']:.1%} of the test images, averaged over classes."
    )
    if judged["escape"]:
        text += f" At the operating threshold it lets {judged['escape']['value']:.1%} of defects pass"
        text += f" and rejects {judged['overkill']['value']:.1%} of good parts."
    if reference is None:
        return text + " The plain reference of the same budget was the best of the shortlist, and is what is delivered."
    other = reference["balanced_accuracy"]
    relation = "above" if own["value"] > other["value"] else "not above"
    sure = own["low"] > other["high"] or own["high"] < other["low"]
    return text + (
        f" Its balanced accuracy is {relation} that of the plain reference network of the same budget"
        f" ({other['value']:.1%})"
        + ("." if sure else "; the intervals overlap, so this test set cannot tell them apart.")
    )


def _ranked_by(ranking: dict[str, Any]) -> str:
    if ranking["name"] == "paper":
        return "The published form ranked the candidates all the same, as the profile asks."
    return (
        f"The candidates were ranked by {formula(ranking)} ({ranking['name']}), "
        "and a short real training chose among the best."
    )


def _audited(audit: dict[str, Any] | None) -> str:
    if audit is None:
        return "No audit was made: factory audit LINE --nets 24 measures how far the score can be trusted here."
    return f"{audit['sentence']} So says an audit of {scope(audit)}."


def _notes(results: Results, audit: dict[str, Any] | None) -> list[str]:
    notes = [f"Missed: {phrase}." for phrase in results.missed]
    saturated = np.median([c.saturation for c in results.found.candidates[:100]]) if results.found.candidates else 0.0
    if saturated > SATURATED:
        notes.append(
            f"SWAP-Score is saturated (median {saturated:.0%} of its ceiling among the best 100): here it counts "
            "activations more than it judges wiring. " + _ranked_by(results.found.ranking)
        )
    if len(results.losses) > 1:
        tried = ", ".join(f"{name} {loss:.3f}" for name, loss in results.losses.items())
        notes.append(f"Delivered is the way of training with the lowest loss on the validation images: {tried}.")
    notes.append(_audited(audit))
    if results.line.classes.good is not None:
        notes.append(
            "Balanced accuracy and recall are of the most probable class; escape, overkill and the shares rejected "
            "are of the decision by threshold, which is what the station does."
        )
    proof = results.found.proof
    notes.append(
        f"Latency of candidates is predicted, and the {proof.level:.0%} upper bound of its interval held against the "
        f"budget. {str(proof)[0].upper()}{str(proof)[1:]}. What is delivered was measured."
    )
    measured = results.choice["measured"].get(results.chosen.precision)
    note = measured and asleep(measured["after_idle"]["p50_ms"], results.line.budget)
    if note:
        notes.append(note)
    parity = results.acceptance["parity"]
    notes.append(
        f"The delivered ONNX file ({results.chosen.precision}) and the collapsed network in torch decide alike on "
        f"{parity['images'] - parity['decisions_changed']} of {parity['images']} test images "
        f"({parity['decisions_changed']} differ; largest score difference "
        f"{parity['score_difference']:.1g})."
    )
    return notes


@dataclass(frozen=True)
class Aside:
    """What is shown beside the run itself: the documents of an audit and a pilot, None without, and the robustness."""

    audit: dict[str, Any] | None
    pilot: dict[str, Any] | None
    robustness: m.Robustness


def run_report(results: Results, aside: Aside, bundle: Path | None) -> m.RunReport:
    """Collect the values of the page."""
    line, classes, budget = results.line, results.line.classes, results.line.budget
    scores = softmax(results.logits)
    decisions = decide(scores, classes.labels, classes.good, results.chosen.threshold)
    decided = [d.label for d in decisions]
    truth = [classes.labels[k] for k in results.data.test.labels]
    rejects = None if classes.good is None else reject_scores(scores, classes.labels, classes.good)
    shown = scores.max(axis=1) if rejects is None else rejects
    distance = shown if rejects is None else np.abs(rejects - (results.chosen.threshold or 0))
    own = next(e for e in results.shortlist if e.candidate.genome == results.chosen.genome)
    front = {c.genome for c in results.found.front}
    check = results.data_check
    return m.RunReport(
        line=line.name,
        device=results.device.name,
        created=datetime.now(UTC).replace(microsecond=0),
        tool_version=factory.__version__,
        accepted=not results.missed,
        headline=_headline(results),
        delivered_genome=results.chosen.genome,
        good=classes.good,
        labels=list(classes.labels),
        threshold=results.chosen.threshold,
        budgets=[
            _budget("latency", "ms", budget.latency_ms, own.candidate.latency_ms, results.latency_ms),
            _budget("size", "MB", budget.size_mb, own.candidate.size_mb, results.size_mb),
        ],
        evaluated=results.found.evaluated,
        search_points=[
            m.SearchPoint(c.genome, c.score, c.swap, c.known_ms, c.size_mb, c.genome in front)
            for c in results.found.candidates
            if c.swap > 0
        ],
        chosen_genome=results.chosen.genome,
        shortlist=_shortlist(results),
        curves=_curves(results),
        acceptance=_acceptance(results),
        classes=_classes(results),
        confusion=confusion_matrix(truth, decided, labels=list(classes.labels)),
        reject_scores=rejects,
        defective=None if classes.good is None else np.array([label != classes.good for label in truth]),
        networks=_networks(results),
        mistakes=_mistakes(results, decided, shown, distance),
        latency_samples_ms=np.array(results.bench[results.chosen.genome]["samples_ms"]),
        stages=_stages(results),
        bundle="not packed" if bundle is None else str(bundle),
        key_note="no bundle was signed"
        if bundle is None
        else f"bundle {bundle_id_of(bundle)}, signed by {_signer(bundle)}",
        data_note=(
            f"{check['images']} images; {len(check['unreadable'])} unreadable files were left out; "
            f"{len(check['duplicates'])} sets of equal pictures, kept together in one split."
        ),
        notes=_notes(results, aside.audit),
        versions=versions(),
        next_command="station verify BUNDLE --trust KEY.pub"
        if bundle is None
        else f"station verify {bundle} --trust KEY.pub",
        robustness=aside.robustness,
        training=choices.training(results, aside.pilot),
        variants=choices.variants(results),
        kinds=choices.kinds(results),
        review=choices.review(results),
        pace=f"After idle: one frame with a part every {results.line.budget.rhythm_ms:g} ms, between which the "
        f"processor idles. Frames a second: {results.device.batch[2]} at once. Memory: the whole process.",
    )


def _signer(bundle: Path) -> str:
    import json

    signer: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["signer"]
    return f"{signer['name']} ({signer['key_id']})"


def _budget(name: Any, unit: Any, limit: float, predicted: float, measured: float) -> m.Budget:
    return m.Budget(name, unit, limit, predicted, measured, measured <= limit)


def write_report(results: Results, aside: Aside, bundle: Path | None, folder: Path) -> None:
    """Write report.html into `folder`."""
    page.write(run_report(results, aside, bundle), folder / "report.html")
