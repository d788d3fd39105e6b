"""How well can any learner rank a device's latencies? Four fifths of a table train it, the last fifth tests.

`places`: a ridge over the operator in each place. `boosted`: boosted trees on what that leaves, over the same and the
space's features. `oracle`: both again with the latencies of the very architectures on all other devices as further
inputs, which no tool has. `transfer`: the product's law from all those measurements and other devices' laws: its limit.
"""

from typing import Final

import numpy as np
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import scale

from factory.cost.latency import Floats
from factory.cost.transfer import fit_transfer
from tests.benchmarks.latency_tables import LatencyTable

TRAIN: Final = 0.8
PENALTIES: Final = np.logspace(-2, 3, 6)
TREES: Final = 200
RATE: Final = 0.05
LEAVES: Final = 15


def _straight(inputs: Floats, ms: Floats, known: int) -> Floats:
    """Of all rows, predicted by a ridge on the first `known`."""
    return np.asarray(RidgeCV(PENALTIES).fit(inputs[:known], ms[:known]).predict(inputs))


def _boosted(inputs: Floats, trees: Floats, ms: Floats, known: int) -> Floats:
    """The ridge, and boosted trees over further inputs on what it leaves."""
    straight = _straight(inputs, ms, known)
    forest = HistGradientBoostingRegressor(
        max_iter=TREES, learning_rate=RATE, max_leaf_nodes=LEAVES, early_stopping=False, random_state=0
    )
    left = (ms - straight)[:known]
    further: Floats = forest.fit(trees[:known], left).predict(trees)
    return straight + further


def ceilings(table: LatencyTable, device: int, taught: Floats) -> dict[str, float]:
    """Spearman of each learner on the networks it did not see.

    Args:
        table: of N architectures on D devices.
        device: the column.
        taught: float64 (N, D), latencies by laws of the devices.
    """
    order = np.random.default_rng(0).permutation(len(table.ms))
    known = int(TRAIN * len(order))
    others = table.others(table.devices[device])
    places, features, own = table.places[order], table.features[order], table.ms[order, device]
    ms = own / own[:known].mean()
    seen = scale(table.ms[order][:, others])
    laws = taught[order][:, others]
    with_seen = np.column_stack([places, seen])
    transfer = fit_transfer(features[:known], laws[:known], own[:known])
    guesses = {
        "places": _straight(places, ms, known),
        "boosted": _boosted(places, np.column_stack([places, features]), ms, known),
        "oracle": _boosted(with_seen, np.column_stack([with_seen, features]), ms, known),
        "transfer": transfer.predict(np.column_stack([features, laws])),
    }
    return {name: float(spearmanr(guess[known:], ms[known:])[0]) for name, guess in guesses.items()}
