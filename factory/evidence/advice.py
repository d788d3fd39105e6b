"""The verdict of an audit in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from factory.evidence.choice import COUNTS, PLAIN, SURE, Rows, best_plain, number, trusted
from factory.evidence.settling import SETTLED

LABELS: Final = {
    "swap": "SWAP-Score",
    "regularised": "SWAP-Score times the size regulariser",
    "params": "parameters",
    "macs": "multiply-adds",
    "latency": "predicted latency",
    "nwot": "NWOT",
    "calibrated": "the calibrated ranking",
    "refitted": "the ranking refitted to these networks",
}


def formula(ranking: Mapping[str, Any]) -> str:
    """A ranking's JSON in one phrase, such as `params^0.4 · macs^1.2`."""
    if "exponents" not in ranking:
        return f"swap · f(params), mu {ranking['mu']:.3g}, sigma {ranking['sigma']:.3g}"
    powers = ranking["exponents"].items()
    return " · ".join(name if exponent == 1 else f"{name}^{exponent:.2g}" for name, exponent in powers)


def interval(row: Mapping[str, Any]) -> str:
    """A row's Spearman with its 95 % interval."""
    return f"{row['spearman']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def scope(document: Mapping[str, Any]) -> str:
    """What an audit rests on."""
    nets, epochs = document["nets"], document["epochs"]
    return f"{nets} random networks, {epochs} epoch{'s' if epochs > 1 else ''} each"


def trust_sentence(rows: Rows, beaten: Sequence[str]) -> str:
    """Whether to trust SWAP-Score on this line, and why.

    Args:
        rows: of `compare`.
        beaten: of `beaten_by`.
    """
    swap, count = rows["swap"], best_plain(rows, beaten or COUNTS)
    if swap["spearman"] is None:
        return "Do not trust SWAP-Score on this line: it, or the result of the training, is the same for all networks."
    verb = "beat it beyond chance with" if beaten else "reach"
    other = rows[count]["spearman"]
    return (
        f"{'SWAP-Score can be trusted' if trusted(rows, beaten) else 'Do not trust SWAP-Score'} on this line: its rank "
        f"correlation with short training is {interval(swap)}; {LABELS[count]} {verb} "
        f"{'nothing' if other is None else format(other, '.2f')}."
    )


def ranking_sentence(chosen: str, powers: str, rows: Rows) -> str:
    """What to rank by, and why.

    Args:
        chosen: of `choose`.
        powers: its `formula`.
        rows: of `compare`.
    """
    count = best_plain(rows)
    if chosen in PLAIN:
        return f"Rank by {LABELS[chosen]} alone: {interval(rows[chosen])}, and nothing is clearly better."
    if not number(rows[chosen]["low"]) > 0:
        return f"No ranking is better than chance here: {LABELS[chosen]} is kept ({powers}); more --nets may tell."
    other = "" if rows[count]["spearman"] is None else f"; {LABELS[count]} alone: {interval(rows[count])}"
    if other and not number(rows[chosen]["gain_low"]) > 0:
        other += ", a difference that chance could make"
    name = LABELS[chosen] if chosen == "swap" else f"{powers}, {LABELS[chosen]}"
    return f"Rank by {name}: {interval(rows[chosen])}{other}."


NARROW: Final = (
    "The ranking refitted to these networks prefers narrow ones, as trainings do that are too short for others; "
    "it is not used, and more --epochs may tell."
)


def shortlist_sentence(enough: int, nets: int) -> str:
    """How many of so many random networks to shortlist."""
    return (
        f"Shortlist {enough} of {nets} random candidates for a chance of {SURE:.0%} that the best is among them; "
        "the best of a search lie closer together, so take that as the least."
    )


def settling_sentence(settled: Mapping[str, Any], epochs: int) -> str:
    """When the order settles in trainings of so many epochs: words for `settles_at` and `extrapolation`."""
    at, foretold = settled["settles_at_epoch"], settled["extrapolation"]
    if len(settled["curve"]) == 1:
        return "One epoch says nothing about when the order settles; more --epochs may."
    if at is None or at == epochs:
        text = f"The order changes until the end of {epochs} epochs: a longer training.short_epochs may order better."
    else:
        text = f"The order settles at epoch {at} of {epochs}: its correlation with the end stays at {SETTLED} or above."
    if foretold is not None and foretold["saves_time"]:
        text += f" A power law foretells it from epoch {foretold['from_epoch']} ({foretold['power_law']:.2f})."
    return text
