"""What the commands print: tables that line up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.runtime.figures import unsteady
from factory.choice import Option
from factory.doctor import Finding
from factory.evidence.advice import LABELS, scope
from factory.evidence.rows import verdict
from factory.outcome import Results
from factory.profiles import BudgetLimits
from factory.search.candidate import Candidate
from factory.search.run import Found
from factory.search.shortlist import Entry
from factory.search.space import SpaceReport


def _show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console = Console()
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def show_findings(findings: Sequence[Finding]) -> None:
    """What `factory doctor` found."""
    rows = [(f.subject, "ok" if f.ok else "lacks" if f.fatal else "absent", f.found, f.fix) for f in findings]
    console = Console()
    table = Table("subject", "", "found", "what to do")
    for row in rows:
        table.add_row(*map(escape, row))
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def show_data(check: dict[str, Any], problems: Sequence[str]) -> None:
    """Classes by split, then everything unusual."""
    rows = [(label, *(str(parts[p]) for p in ("train", "val", "test"))) for label, parts in check["classes"].items()]
    _show(f"{check['images']} images", ("class", "train", "val", "test"), rows)
    sizes = ", ".join(f"{size} ({number})" for size, number in list(check["sizes"].items())[:5])
    print(f"sizes: {sizes}{' and others' if len(check['sizes']) > 5 else ''}")
    for title, entries in (
        ("unreadable, left out", [f"{bad['path']}: {bad['reason']}" for bad in check["unreadable"]]),
        ("equal pictures, kept in one split", [", ".join(same) for same in check["duplicates"]]),
        ("equal pictures with different labels", [", ".join(same) for same in check["contradictions"]]),
        ("problems", list(problems)),
    ):
        print(f"{title}: {len(entries) or 'none'}")
        for entry in entries[:10]:
            print(f"  {entry}")
        if len(entries) > 10:
            print(f"  ... and {len(entries) - 10} more")


def show_space(report: SpaceReport) -> None:
    """Budgeted quantities over the space."""
    rows = [
        (name, *("-" if q[k] is None else f"{q[k]:.4g}" for k in ("min", "median", "max", "limit")))
        for name, q in report.quantities().items()
    ]
    _show("what the space offers", ("quantity", "min", "median", "max", "limit"), rows)
    print(f"{report.feasible_share:.1%} of random networks keep the budgets (latency by its 95 % upper bound)")


def show_comparison(document: dict[str, Any]) -> None:
    """Two distributions of scores, every choice with what it is worth, and what could go into the profile."""
    rows = [
        (f"{letter}: {row['restriction']}", f"{row['feasible_share']:.1%}", str(row["n"]),
         *(f"{row['quantiles'][q]:.4g}" for q in ("10", "50", "90")), f"{document['above'][letter]:.0%}",
         f"{row['front_lost']:.1%}")
        for letter, row in zip("AB", document["restrictions"], strict=True)
    ]  # fmt: skip
    _show(
        "score of random networks near the budgets",
        ("restriction", "feasible", "networks", "10 %", "median", "90 %", "above other's median", "front lost"),
        rows,
    )
    ks, better = document["ks"], document["better"]
    said = "neither is better" if better == "neither" else f"{better} is better"
    print(f"{said} (Kolmogorov-Smirnov distance {ks['statistic']:.3f}, p = {ks['p']:.2g})")
    suggested = {row["choice"] for row in document["suggestions"]}
    choices = [
        (row["choice"], str(row["networks"]),
         *("-" if row[m] is None else f"{row[m]:.4g}" for m in ("median_with", "median_without")),
         f"{row['front_lost']:.1%}", f"{row['best_lost']:.1%}", "yes" if row["choice"] in suggested else "")
        for row in document["choices"]
    ]  # fmt: skip
    _show(
        f"what is lost without a choice; the front has {document['front']} networks",
        ("choice", "networks", "median with", "median without", "front lost", "best lost", "could be left out"),
        choices,
    )
    if document["toml"]:
        print(f"to confirm, write this to the profile: {document['front_lost']:.1%} of the front is lost, not the best")
        print(f"\n{document['toml']}")
    else:
        print("nothing to narrow: leaving out any choice would cost part of the front")


def _candidate(c: Candidate) -> tuple[str, ...]:
    return (
        c.genome,
        f"{c.score:.4g}",
        f"{c.saturation:.0%}",
        f"{c.latency_ms:.3f}",
        "-" if c.measured_ms is None else f"{c.measured_ms:.3f}",
        f"{c.size_mb:.3f}",
        f"{c.params:,}",
    )


def show_front(found: Found, seconds: float) -> None:
    """Score, latency and size side by side, and how far the predictions held."""
    columns = ("network", "score", "saturation", "predicted ms", "measured ms", "size MB", "parameters")
    title = f"the front of {found.evaluated} networks, scored and measured in {seconds:.0f} s"
    _show(title, columns, [_candidate(c) for c in found.front])
    _show("the best by score", columns, [_candidate(c) for c in found.candidates[:5]])
    print(f"latency: {found.proof}")


def show_shortlist(entries: Sequence[Entry]) -> None:
    """The short trainings, best first."""
    rows = [
        (e.candidate.genome, e.role, f"{e.val_balanced_accuracy:.1%}", f"{e.val_loss:.3f}", f"{e.latency_ms:.3f}",
         f"{e.candidate.size_mb:.3f}")
        for e in entries
    ]  # fmt: skip
    columns = ("network", "role", "balanced accuracy", "loss", "latency ms", "size MB")
    _show("short trainings, on validation images; the lowest loss goes on", columns, rows)


def show_collapse(documents: Mapping[str, dict[str, Any]], delivered: str) -> None:
    """Every cure of every way of training, on validation images."""
    rows = []
    for way, document in documents.items():
        rows.append((way, "as trained", *_cured(document["trained"]), ""))
        for cured in document["cures"]:
            note = "delivered" if way == delivered else "best cure"
            chosen = note if cured["name"] == document["chosen"] else ""
            if cured["name"] != "as trained":
                rows.append((way, cured["name"], *_cured(cured), chosen))
            elif chosen:
                rows[-1] = (*rows[-1][:-1], chosen)
    columns = ("trained", "finished", "balanced accuracy", "loss", "temperature", "loss with it", "")
    _show("finish, on validation images", columns, rows)
    document = documents[delivered]
    print(f"largest difference of a logit in float64, relative: {document['difference']:.1e}")
    print(f"largest value behind a block: {max(document['ranges']):.3g} (float16 ends at 65,504)")


def _cured(figures: dict[str, Any]) -> tuple[str, ...]:
    names = ("balanced_accuracy", "loss", "temperature", "calibrated_loss")
    return tuple(f"{figures[name]:.4f}" for name in names)


def show_ways(title: str, document: dict[str, Any]) -> None:
    """The chosen network trained or asked in several ways, on test images."""
    rows = [
        (row["name"], _percent(row["accuracy"]), _percent(row["balanced_accuracy"]), _number(row["loss"]),
         f"{row['calibration_error']:.3f}", _percent(row["escape"]), _percent(row["overkill"]), f"{row['ms']:.3f}")
        for row in document["rows"]
    ]  # fmt: skip
    columns = (
        "chosen network",
        "accuracy",
        "balanced accuracy",
        "loss",
        "calibration error",
        "escape",
        "overkill",
        "ms",
    )
    _show(title, columns, rows)


def _number(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def show_pilot(document: dict[str, Any]) -> None:
    """What the first seed said of every noise, and what the later ones say of the best."""
    first = [
        (name, f"{loss:.4f}", "goes on" if any(row["name"] == name for row in document["judged"]) else "")
        for name, loss in sorted(document["first"].items(), key=lambda item: item[1])
    ]
    images = document["images"]
    title = f"{document['line']}: {document['epochs']} epochs on {images['trained']} images, {images['judged']} judge"
    _show(title, ("first seed", "loss", ""), first)
    rows = [
        (row["name"], f"{row['loss']:.4f}", f"{row['balanced_accuracy']:.1%}", _gained(row["loss_gain"], 1, 3),
         _gained(row["accuracy_gain"], 100, 1), f"{row['seconds']:.0f}")
        for row in document["judged"]
    ]  # fmt: skip
    columns = ("judged", "loss", "balanced accuracy", "loss saved (95 %)", "points gained (95 %)", "CPU s a training")
    _show(f"{document['seeds']} further seeds", columns, rows)
    print(f"{document['sentence']} The pilot took {document['seconds']:.0f} CPU seconds.")


def _gained(estimate: dict[str, float], scale: float, digits: int) -> str:
    value, low, high = (f"{scale * estimate[key]:+.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def show_export(document: dict[str, Any]) -> None:
    """The file, the gate, the engines."""
    parity, threshold = document["parity"], document["threshold"]
    print(f"model: {document['model']} ({document['size_mb']:.3f} MB), feed uint8 frames; do not normalise them again")
    print(
        f"gate: {parity['images']} validation images, {parity['decisions_changed']} decisions changed, "
        f"scores within {parity['score_difference']:.1e}"
    )
    print(f"threshold: {'none, this line sorts' if threshold is None else f'{threshold:.4f}'}")
    show_variants(document["variants"])
    for engine in (row["engine"] for row in document["engines"]):
        print(f"engine: {engine['path']}, {engine['runtime']} {engine['version']}, {engine['targets'] or 'portable'}")


FIGURES = ("p50 ms", "p90", "p95", "p99", "min", "max", "cv", "runs", "provider")


def show_variants(rows: Sequence[dict[str, Any]]) -> None:
    """Every precision: what it is made by, gained and lost on validation images, and why it is left out."""
    body = [
        (row["precision"] + ("" if row["place"] == "any" else f" ({row['place']})"), row["calibration"] or "-",
         f"{row['size_mb']:.3f}", f"{row['balanced_accuracy']:.1%}", _flow(row["escapes"]), _flow(row["overkill"]),
         f"{row['parity']['decisions_changed']} of {row['parity']['images']}", "; ".join(row["reasons"]) or "passed")
        for row in rows
    ]  # fmt: skip
    columns = ("precision", "calibration", "MB", "balanced accuracy", "escapes", "overkill", "changed", "")
    _show("precisions, on validation images, each at its own threshold", columns, body)


def show_options(options: Sequence[Option], budget: BudgetLimits) -> None:
    """Every way to run the network, and what is recommended."""

    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    def counts(pair: tuple[int, int] | None) -> str:
        return "-" if pair is None else f"{pair[0]} of {pair[1]}"

    body = [
        (o.backend, o.precision, str(o.batch), *map(ms, (o.p50_ms, o.p95_ms, o.p99_ms, o.max_ms, o.after_idle_ms)),
         "-" if o.frames_per_s is None else f"{o.frames_per_s:.0f}", f"{o.size_mb:.3f}",
         "-" if o.memory_mb is None else f"{o.memory_mb:.0f}", f"{o.balanced_accuracy:.1%}", counts(o.escapes),
         counts(o.overkill), "; ".join(o.against) or ("recommended" if o.recommended else "passes"))
        for o in options
    ]  # fmt: skip
    columns = ("back end", "precision", "batch", "p50 ms", "p95", "p99", "max", "after idle", "frames/s", "MB",
               "memory MB", "balanced accuracy", "escapes", "overkill", "")  # fmt: skip
    title = f"ways to run it; budget {budget.latency_ms:g} ms, {budget.size_mb:g} MB; accuracy on validation images"
    _show(title, columns, body)
    for o in options:
        if o.recommended and o.after_idle_ms is not None and o.after_idle_ms > budget.latency_ms:
            print(
                f"with a part every {budget.rhythm_ms:g} ms the processor idles between two, and a frame takes "
                f"{o.after_idle_ms:.3f} ms: more than the budget, which is held against frames back to back"
            )


def _flow(flow: dict[str, int] | None) -> str:
    if flow is None:
        return "-"
    return f"{flow['after']} of {flow['total']} (+{flow['new']} -{flow['gone']})"


def show_bench(rows: Sequence[dict[str, Any]], limit: float) -> None:
    """Percentiles of each network."""
    body = [(row["genome"], *_figures(row)) for row in rows]
    _show(f"one frame; the budget is {limit:g} ms at the median", ("network", *FIGURES), body)
    if any(row["noisy"] for row in rows):
        print(unsteady())


def _figures(row: Mapping[str, Any]) -> tuple[str, ...]:
    percentiles = (f"{row[name]:.3f}" for name in ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms", "max_ms"))
    return (*percentiles, f"{row['cv']:.2f}{' *' if row['noisy'] else ''}", str(row["runs"]), row["provider"])


def _percent(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate['value']:.1%} ({estimate['low']:.1%} to {estimate['high']:.1%})"


def show_outcome(results: Results) -> None:
    """The final table."""
    judged = [("delivered", results.judged, results.chosen.genome)]
    if results.judged_reference and results.reference:
        judged.append(("plain reference", results.judged_reference, results.reference.genome))
    rows = [
        (name, _percent(row["balanced_accuracy"]), f"{row['auroc']['value']:.3f}", _percent(row["escape"]),
         _percent(row["overkill"]), f"{results.bench[genome]['p50_ms']:.3f}")
        for name, row, genome in judged
    ]  # fmt: skip
    if results.line.classes.good is not None:
        rows.append(("pass everything", f"{1 / len(results.line.classes.labels):.1%}", "0.500", "100.0%", "0.0%", "0"))
    columns = ("network", "balanced accuracy", "AUROC", "escape", "overkill", "latency ms")
    _show(f"{results.line.name}: test images, with 95 % intervals", columns, rows)
    checked = [(c.name, f"{c.limit:.4g}", f"{c.value:.4g}", "yes" if c.passed else "NO") for c in results.checks]
    _show("limits", ("limit", "asked", "found", "holds"), checked)
    if results.modes is not None:
        show_ways("noise: test images, with 95 % intervals", results.modes)
    if results.tuition is not None:
        show_ways("teacher: test images, with 95 % intervals", results.tuition)
    print(f"network: {results.chosen.genome}")


def show_score(document: dict[str, Any]) -> None:
    """One architecture's SWAP-Score and what it was measured with."""
    counts, size, protocol = document["per_init"], document["regulariser"], document["protocol"]
    pictures = f"{protocol['samples']} pictures of {protocol['image_size']} pixels, {Path(document['pictures']).name}"
    rows = [
        ("SWAP-Score", f"{document['swap']:,.1f}", f"mean of {len(counts)}, {min(counts):,} to {max(counts):,}"),
        ("regularised", f"{document['regularised']:,.1f}", f"mu {size['mu']:.4g}, sigma {size['sigma']:.4g}"),
        ("saturation", f"{document['saturation']:.1%}", f"of min(V, 2^{protocol['samples']})"),
        ("V", f"{document['positions']:,}", f"activation values; {pictures}"),
        ("parameters", f"{document['params']:,}", f"scored; of the full network {document['params_full']:,}"),
        ("seconds", f"{document['seconds']:.3f}", f"protocol {protocol['name']} {protocol['digest'][:12]}"),
    ]
    _show(f"{document['space']}: {document['arch']}", ("", "value", ""), rows)


def show_correlation(document: dict[str, Any]) -> None:
    """How well every score ranks the networks of a table."""

    def number(value: float | None, form: str = "+.3f") -> str:
        return "-" if value is None else format(value, form)

    rows = [
        (row["score"], row["source"], f"{row['n']:,}", number(row["spearman"]),
         f"{number(row['low'], '+.2f')} to {number(row['high'], '+.2f')}", number(row["kendall"]),
         number(row["top_recall"], ".0%"), number(row["best_of_top10"], ".4g"), number(row["within_size"]),
         number(row["seconds"], ".3f"))
        for row in document["rows"]
    ]  # fmt: skip
    columns = (
        "score",
        "from",
        "networks",
        "Spearman",
        "95 %",
        "Kendall",
        "top tenth",
        "best of 10",
        "at one size",
        "s",
    )
    where = "".join(f", {column} {value}" for column, value in document["where"].items())
    _show(f"{document['space']}: rank correlation with {document['metric']}{where}", columns, rows)
    print(f"best trained: {document['best_trained']:.4g}; at one size: {document['size_groups']}")
    print(f"left out: {document['invalid']} without a path, {document['without_result']} without a result")
    if document["median_saturation"] is not None:
        print(f"saturation of SWAP-Score, median: {document['median_saturation']:.1%}")
    if "ablation" in document:
        _show_ablation(document["ablation"], document["ablation_left_out"])
    print(verdict(document))


def _show_ablation(rows: list[dict[str, Any]], left_out: list[int]) -> None:
    kinds = ("standard", "swap", "regularised")
    body = [
        (f"{row['image_size']} pixels", *("-" if row[kind] is None else f"{row[kind]:+.3f}" for kind in kinds))
        for row in rows
    ]
    _show("Spearman by kind of activation pattern", ("input", "standard", "SWAP", "regularised SWAP"), body)
    if left_out:
        print(f"left out, too small for the space's networks: {', '.join(map(str, left_out))} pixels")


def show_audit(document: dict[str, Any]) -> None:
    """How well every score ranks a line's own networks, and what to do about it."""

    def interval(row: dict[str, Any], low: str, high: str) -> str:
        return "-" if row[low] is None else f"{row[low]:+.2f} to {row[high]:+.2f}"

    rows = [
        (row["score"], LABELS[row["score"]], "-" if row["spearman"] is None else f"{row['spearman']:+.2f}",
         interval(row, "low", "high"), f"{row['regret_top5']:.1f}",
         "-" if row["gain"] is None else f"{row['gain']:+.2f}", interval(row, "gain_low", "gain_high"))
        for row in document["scores"]
    ]  # fmt: skip
    columns = ("score", "", "Spearman", "95 %", "regret of top 5, points", "above best count", "95 %")
    _show(f"{document['line']}: {scope(document)}; rank correlation with validation loss", columns, rows)
    print(f"saturation of SWAP-Score, median: {document['saturation']:.0%}")
    for text in (document["sentence"], *document["advice"]):
        print(text)
