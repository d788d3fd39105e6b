"""What the commands print of what was measured of scores, spaces and noise."""

from pathlib import Path
from typing import Any

from factory.evidence.advice import LABELS, scope
from factory.evidence.rows import verdict
from factory.tables import show


def show_comparison(document: dict[str, Any]) -> None:
    """Two distributions of scores, every choice with what it is worth, and what could go into the profile."""
    rows = [
        (f"{letter}: {row['restriction']}", f"{row['feasible_share']:.1%}", str(row["n"]),
         *(f"{row['quantiles'][q]:.4g}" for q in ("10", "50", "90")), f"{document['above'][letter]:.0%}",
         f"{row['front_lost']:.1%}")
        for letter, row in zip("AB", document["restrictions"], strict=True)
    ]  # fmt: skip
    show(
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
    show(
        f"what is lost without a choice; the front has {document['front']} networks",
        ("choice", "networks", "median with", "median without", "front lost", "best lost", "could be left out"),
        choices,
    )
    if document["toml"]:
        print(f"to confirm, write this to the profile: {document['front_lost']:.1%} of the front is lost, not the best")
        print(f"\n{document['toml']}")
    else:
        print("nothing to narrow: leaving out any choice would cost part of the front")


def show_pilot(document: dict[str, Any]) -> None:
    """What the first seed said of every noise, and what the later ones say of the best."""
    first = [
        (name, f"{loss:.4f}", "goes on" if any(row["name"] == name for row in document["judged"]) else "")
        for name, loss in sorted(document["first"].items(), key=lambda item: item[1])
    ]
    images = document["images"]
    title = f"{document['line']}: {document['epochs']} epochs on {images['trained']} images, {images['judged']} judge"
    show(title, ("first seed", "loss", ""), first)
    rows = [
        (row["name"], f"{row['loss']:.4f}", f"{row['balanced_accuracy']:.1%}", _gained(row["loss_gain"], 1, 3),
         _gained(row["accuracy_gain"], 100, 1), f"{row['seconds']:.0f}")
        for row in document["judged"]
    ]  # fmt: skip
    columns = ("judged", "loss", "balanced accuracy", "loss saved (95 %)", "points gained (95 %)", "CPU s a training")
    show(f"{document['seeds']} further seeds", columns, rows)
    print(f"{document['sentence']} The pilot took {document['seconds']:.0f} CPU seconds.")


def _gained(estimate: dict[str, float], scale: float, digits: int) -> str:
    value, low, high = (f"{scale * estimate[key]:+.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


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
    show(f"{document['space']}: {document['arch']}", ("", "value", ""), rows)


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
    show(f"{document['space']}: rank correlation with {document['metric']}{where}", columns, rows)
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
    show("Spearman by kind of activation pattern", ("input", "standard", "SWAP", "regularised SWAP"), body)
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
    show(f"{document['line']}: {scope(document)}; rank correlation with validation loss", columns, rows)
    print(f"saturation of SWAP-Score, median: {document['saturation']:.0%}")
    for text in (document["sentence"], *document["advice"]):
        print(text)
