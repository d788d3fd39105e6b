"""What the commands print: tables that line up."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.runtime.figures import unsteady
from factory.choice import Option, asleep
from factory.doctor import Finding
from factory.kinds import Served, verdict
from factory.outcome import Results
from factory.profiles import BudgetLimits
from factory.search.candidate import Candidate
from factory.search.run import Found
from factory.search.shortlist import Entry
from factory.search.space import SpaceReport


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are figures."""
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
    show(f"{check['images']} images", ("class", "train", "val", "test"), rows)
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
    show("what the space offers", ("quantity", "min", "median", "max", "limit"), rows)
    print(f"{report.feasible_share:.1%} of random networks keep the budgets (latency by its 95 % upper bound)")


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


def front_json(device: str, found: Found, seconds: float) -> dict[str, Any]:
    """The document of `factory search --json` for one device."""
    shown = ("genome", "score", "saturation", "latency_ms", "measured_ms", "size_mb", "params")
    return {
        "device": device,
        "evaluated": found.evaluated,
        "seconds": seconds,
        "ranking": found.ranking,
        "latency": asdict(found.proof),
        "front": [{name: getattr(c, name) for name in shown} for c in found.front],
    }


def show_front(device: str, found: Found, seconds: float) -> None:
    """Score, latency and size side by side, and how far the predictions held."""
    columns = ("network", "score", "saturation", "predicted ms", "measured ms", "size MB", "parameters")
    title = f"the front on {device} of {found.evaluated} networks, scored and measured in {seconds:.0f} s"
    show(title, columns, [_candidate(c) for c in found.front])
    show("the best by score", columns, [_candidate(c) for c in found.candidates[:5]])
    print(f"latency: {found.proof}")


def show_shortlist(entries: Sequence[Entry]) -> None:
    """The short trainings, best first."""
    rows = [
        (e.candidate.genome, e.role, f"{e.val_balanced_accuracy:.1%}", f"{e.val_loss:.3f}", f"{e.latency_ms:.3f}",
         f"{e.candidate.size_mb:.3f}")
        for e in entries
    ]  # fmt: skip
    columns = ("network", "role", "balanced accuracy", "loss", "latency ms", "size MB")
    show("short trainings, on validation images; the lowest loss goes on", columns, rows)


def show_kinds(kinds: Sequence[Served]) -> None:
    """What each kind of station gets, and what one network for all would cost."""

    def cells(entry: Entry | None) -> tuple[str, ...]:
        if entry is None:
            return "-", "-", "-"
        return f"{entry.latency_ms:.3f}", f"{entry.val_balanced_accuracy:.1%}", f"{entry.val_loss:.3f}"

    rows = [
        (kind.device, f"{kind.budget_ms:g}", kind.own.candidate.genome, *cells(kind.own), *cells(kind.shared))
        for kind in kinds
    ]
    own = ("latency ms", "balanced accuracy", "loss")
    columns = ("station", "budget ms", "its network", *own, *(f"one for all: {name}" for name in own))
    show("kinds of station, by the short trainings", columns, rows)
    print(verdict(kinds))


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
    show("finish, on validation images", columns, rows)
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
    show(title, columns, rows)


def _number(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


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
    show("precisions, on validation images, each at its own threshold", columns, body)


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
    show(title, columns, body)
    for o in options:
        note = asleep(o.after_idle_ms, budget)
        if o.recommended and note:
            print(note)


def _flow(flow: dict[str, int] | None) -> str:
    if flow is None:
        return "-"
    return f"{flow['after']} of {flow['total']} (+{flow['new']} -{flow['gone']})"


def show_bench(rows: Sequence[dict[str, Any]], limit: float) -> None:
    """Percentiles of each network."""
    body = [(row["genome"], *_figures(row)) for row in rows]
    show(f"one frame; the budget is {limit:g} ms at the median", ("network", *FIGURES), body)
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
    show(f"{results.line.name}: test images, with 95 % intervals", columns, rows)
    checked = [(c.name, f"{c.limit:.4g}", f"{c.value:.4g}", "yes" if c.passed else "NO") for c in results.checks]
    show("limits", ("limit", "asked", "found", "holds"), checked)
    if results.modes is not None:
        show_ways("noise: test images, with 95 % intervals", results.modes)
    if results.tuition is not None:
        show_ways("teacher: test images, with 95 % intervals", results.tuition)
    print(f"network: {results.chosen.genome}")
