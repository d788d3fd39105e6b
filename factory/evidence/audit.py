"""What an audit says: which score ranks a line's own networks, and what to do about it. Pure functions.

Truth is minus the validation loss of a short training (balanced cross-entropy), which is finer than an accuracy where
there are few images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from factory.evidence import advice
from factory.evidence.choice import PLAIN, USABLE, beaten_by, choose, compare, number, shortlist_size, trusted
from factory.evidence.fit import Trained
from factory.evidence.refit import grows, nested, refit
from factory.evidence.settling import extrapolation, order_curve, settles_at
from factory.score.calibration import CALIBRATED
from factory.score.ranking import Features, PowerLaw, Ranking, Regularised
from factory.score.regulariser import SizeRegulariser
from factory.search.shortlist import outcome
from factory.search.trials import History

Array = NDArray[np.float64]

FEWEST: Final = 6  # networks: fewer cannot be refitted with two left out


@dataclass(frozen=True, slots=True)
class Audited:
    """A network with what is cheap to know of it (`nwot` nan where it has none), and its short training."""

    genome: str
    features: Features
    saturation: float
    nwot: float
    history: History


def alone(name: str) -> PowerLaw:
    """The ranking by one score or count of its own."""
    return PowerLaw((("latency_ms" if name == "latency" else name, 1.0),), name)


def load_ranking(document: Mapping[str, Any]) -> Ranking:
    """The ranking that an audit's document advises."""
    ranking = document["ranking"]
    if "exponents" in ranking:
        return PowerLaw(tuple(ranking["exponents"].items()), ranking["name"])
    return Regularised(SizeRegulariser(ranking["mu"], ranking["sigma"]), ranking["name"])


def rankings_for(line: Trained, size: SizeRegulariser) -> dict[str, Ranking]:
    """All that the search could rank by, by name; `line` is what the refitted one is fitted to."""
    return {
        **{name: alone(name) for name in ("swap", *PLAIN)},
        "regularised": Regularised(size, "regularised"),
        "calibrated": CALIBRATED,
        "refitted": refit(line),
    }


def scores_of(rankings: Mapping[str, Ranking], line: Trained, nwot: Sequence[float]) -> dict[str, Array]:
    """Every score of every network (n,), by name.

    That of the refitted ranking is, for each network, by a ranking fitted to the others alone. NWOT, the logarithm of
    a determinant, is lowest where that is 0 and it has no value.
    """
    scores = {name: np.array([ranking(f) for f in line.features]) for name, ranking in rankings.items()}
    known = np.isfinite(nwot)
    least = np.min(nwot, initial=0.0, where=known) - 1
    return scores | {"refitted": nested(line), "nwot": np.where(known, nwot, least)}


def judge(nets: Sequence[Audited], size: SizeRegulariser, seed: int) -> dict[str, Any]:
    """Say how well every score orders the networks, and what follows: the document of `factory audit`, but the line.

    Args:
        nets: `FEWEST` networks or more, trained alike.
        size: the regulariser of the published form.
        seed: of the bootstraps.
    """
    results = np.array([outcome(net.history) for net in nets])
    accuracy, truth = results[:, 0], -results[:, 1]
    line = Trained(tuple(net.features for net in nets), truth)
    rankings = rankings_for(line, size)
    scores = scores_of(rankings, line, [net.nwot for net in nets])
    rows = compare(scores, truth, accuracy, seed)
    beaten, chosen = beaten_by(scores, truth, seed), choose(rows)
    narrow = chosen == "refitted" and not grows(rankings["refitted"].as_json()["exponents"])
    if narrow:
        chosen = choose(rows, [name for name in USABLE if name != "refitted"])
    ranking = rankings[chosen].as_json()
    enough, settled = shortlist_size(scores[chosen], truth, seed), settling(nets)
    return {
        "nets": len(nets),
        "epochs": len(nets[0].history),
        "scores": sorted(rows.values(), key=lambda row: (-number(row["spearman"]), row["score"])),
        "saturation": float(np.median([net.saturation for net in nets])),
        "trusted": trusted(rows, beaten),
        "sentence": advice.trust_sentence(rows, beaten),
        "advice": [
            advice.ranking_sentence(chosen, advice.formula(ranking), rows),
            *([advice.NARROW] if narrow else []),
            advice.shortlist_sentence(enough, len(nets)),
            advice.settling_sentence(settled, len(nets[0].history)),
        ],
        "ranked_by": chosen,
        "ranking": ranking,
        "shortlist": enough,
        **settled,
        "networks": [_network(net, {name: float(scores[name][i]) for name in scores}) for i, net in enumerate(nets)],
    }


def settling(nets: Sequence[Audited]) -> dict[str, Any]:
    """How the order of the networks comes about along their trainings: settles_at_epoch, curve, extrapolation."""
    epochs = [epoch for epoch, row in enumerate(nets[0].history, 1) if row["val_loss"] is not None]
    losses = np.array([[net.history[epoch - 1]["val_loss"] for epoch in epochs] for net in nets], np.float64)
    curve = order_curve(losses)
    return {
        "settles_at_epoch": settles_at(curve, epochs),
        "curve": [
            {"epoch": epoch, "spearman": None if math.isnan(value) else value}
            for epoch, value in zip(epochs, curve, strict=True)
        ],
        "extrapolation": extrapolation(losses, epochs),
    }


def _network(net: Audited, scores: dict[str, float]) -> dict[str, Any]:
    accuracy, loss = outcome(net.history)
    return {
        "genome": net.genome,
        "val_balanced_accuracy": accuracy,
        "val_loss": loss,
        "saturation": net.saturation,
        "scores": scores,
        "features": asdict(net.features),
        "losses": [row["val_loss"] for row in net.history],
    }
