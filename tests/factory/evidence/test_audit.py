import math
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from factory.evidence import choice, refit
from factory.evidence.audit import Audited, judge, load_ranking
from factory.evidence.audit_figure import audit_figure
from factory.evidence.choice import choose, shortlist_positions, shortlist_size
from factory.evidence.fit import Trained, left_out
from factory.evidence.settling import extrapolation, order_curve, settles_at
from factory.score.ranking import Features
from factory.score.regulariser import SizeRegulariser

Array = NDArray[np.float64]
SIZE = SizeRegulariser(60.0, 900.0)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "DRAWS", 200)
    monkeypatch.setattr("factory.evidence.rows.DRAWS", 200)


def made(number: int, seed: int = 0) -> list[Features]:
    """Networks whose figures say nothing of each other."""
    rng = np.random.default_rng(seed)

    def counts(low: float, high: float) -> list[int]:
        return [int(value) for value in np.exp(rng.uniform(math.log(low), math.log(high), number))]

    columns = zip(
        counts(1e4, 1e5), counts(1e6, 1e7), counts(1e4, 1e6), counts(1e4, 1e6), counts(64, 4096), counts(5, 40),
        strict=True,
    )  # fmt: skip
    return [
        Features(*column, float(rng.uniform(8, 64)), float(rng.uniform(0.2, 0.4)), float(rng.uniform(1e3, 1e5)))
        for column in columns
    ]


def audited(features: list[Features], goodness: Array, epochs: int = 4, noise: float = 0.5) -> list[Audited]:
    """Short trainings that end in the order of `goodness`, after one whose noise halves with every epoch."""
    rng = np.random.default_rng(1)
    ranks = scipy.stats.rankdata(goodness) / len(goodness)
    shifts = rng.normal(size=(epochs, len(goodness))) * noise
    shifts[-1] = 0
    return [
        Audited(
            f"net {i}",
            net,
            0.9,
            float(rng.normal()),
            [
                {"loss": 1.0, "val_balanced_accuracy": float(ranks[i]), "val_loss": float(x)}
                for x in 3 - ranks[i] + shifts[:, i] / 2 ** np.arange(epochs)
            ],
        )
        for i, net in enumerate(features)
    ]


def test_where_one_count_is_the_truth_the_search_is_told_to_use_it() -> None:
    features = made(12)
    document = judge(audited(features, np.array([f.macs for f in features], float)), SIZE, 0)
    assert document["ranking"] == {"name": "macs", "exponents": {"macs": 1.0}}
    assert "Rank by multiply-adds alone" in document["advice"][0]
    assert "nothing is clearly better" in document["advice"][0]
    rows = {row["score"]: row for row in document["scores"]}
    assert rows["macs"]["spearman"] == pytest.approx(1)
    assert rows["macs"]["regret_top5"] == 0
    assert document["trusted"] is False
    assert "multiply-adds beat it beyond chance with 1.00" in document["sentence"]
    assert document["shortlist"] == 1
    (best, other) = sorted(features, key=lambda f: f.macs)[-1:-3:-1]
    assert load_ranking(document)(best) > load_ranking(document)(other)


def test_where_a_power_law_is_the_truth_the_refitted_ranking_wins() -> None:
    features, unseen = made(14), made(200, seed=7)
    goodness = np.array([f.params * f.macs for f in features], float)
    document = judge(audited(features, goodness), SIZE, 0)
    assert document["ranked_by"] == document["scores"][0]["score"] == "refitted"
    assert document["scores"][0]["spearman"] > 0.95
    assert document["scores"][0]["gain_low"] > 0
    ranking = load_ranking(document)
    assert ranking.as_json() == document["ranking"]
    foretold = scipy.stats.spearmanr([ranking(f) for f in unseen], [f.params * f.macs for f in unseen])
    assert foretold.statistic > 0.95
    root = ElementTree.fromstring(audit_figure({"line": "made up", **document}))
    text = " ".join(root.itertext())
    assert "SWAP-Score" in text and "The ranking refitted to these networks" in text and "epoch" in text


def test_where_chance_is_the_truth_nothing_is_trusted() -> None:
    document = judge(audited(made(14), np.random.default_rng(6).normal(size=14)), SIZE, 0)
    assert document["trusted"] is False
    assert document["sentence"].startswith("Do not trust SWAP-Score on this line: its rank correlation")
    assert document["ranked_by"] == "calibrated"
    assert "No ranking is better than chance here" in document["advice"][0]
    assert document["shortlist"] > 7
    assert [row["score"] for row in document["scores"]] == [
        row["score"] for row in sorted(document["scores"], key=lambda r: -r["spearman"])
    ]


def test_where_swap_is_the_truth_it_is_trusted_and_used() -> None:
    features = made(12)
    document = judge(audited(features, np.array([f.swap for f in features])), SIZE, 0)
    assert document["trusted"] is True
    assert document["sentence"].startswith(
        "SWAP-Score can be trusted on this line: its rank correlation with short training is 1.00 (1.00 to 1.00)"
    )
    assert document["ranking"] == {"name": "swap", "exponents": {"swap": 1.0}}


def test_a_refit_that_prefers_narrow_networks_is_not_used() -> None:
    features = made(12)
    document = judge(audited(features, -np.array([f.params for f in features], float)), SIZE, 0)
    assert document["scores"][0]["score"] == "refitted"
    assert document["scores"][0]["low"] > 0
    assert document["ranked_by"] != "refitted"
    assert "prefers narrow ones" in document["advice"][1]


def test_a_network_without_nwot_ranks_last_by_it_and_equal_results_are_no_order() -> None:
    nets = audited(made(8), np.ones(8))
    nets[3] = replace(nets[3], nwot=math.nan)
    for net in nets:
        net.history[:] = nets[0].history
    document = judge(nets, SIZE, 0)
    nwot = [net["scores"]["nwot"] for net in document["networks"]]
    assert nwot[3] == min(nwot) and nwot.count(min(nwot)) == 1
    assert {row["spearman"] for row in document["scores"]} == {None}
    assert document["trusted"] is False
    assert (document["ranked_by"], document["settles_at_epoch"]) == ("calibrated", None)
    assert "the same for all networks" in document["sentence"]
    assert audit_figure({"line": "made up", **document}).startswith("<svg")


def rows(**given: tuple[float, float, float]) -> dict[str, dict[str, Any]]:
    """Rows of a comparison: Spearman, its lower bound, the gain over the best plain count, 0.1 its standard error."""
    return {
        name: {"score": name, "spearman": value, "low": low, "gain": gain, "gain_low": gain - 0.196,
               "gain_high": gain + 0.196}
        for name, (value, low, gain) in given.items()
    }  # fmt: skip


@pytest.mark.parametrize(
    ("refitted", "calibrated", "macs", "chosen"),
    [
        ((0.9, 0.7, 0.3), (0.8, 0.6, 0.2), (0.6, 0.4), "refitted"),
        ((0.9, 0.7, 0.05), (0.8, 0.6, -0.05), (0.85, 0.7), "macs"),  # within a standard error
        ((0.7, 0.5, 0.3), (0.8, 0.6, 0.4), (0.4, 0.2), "calibrated"),  # the best of those that are better
        ((0.7, -0.1, 0.3), (0.6, 0.4, 0.2), (0.4, 0.2), "calibrated"),  # but for what could be chance alone
        ((0.35, 0.1, 0.05), (0.4, -0.1, 0.1), (0.3, -0.1), "refitted"),  # nothing to beat
        ((0.3, -0.1, 0.0), (0.2, -0.1, -0.1), (0.3, -0.1), "calibrated"),
    ],
)
def test_the_choice_follows_the_intervals(
    refitted: tuple[float, float, float], calibrated: tuple[float, float, float], macs: tuple[float, float], chosen: str
) -> None:
    none = (0.1, -0.3, -0.2)
    table = rows(
        refitted=refitted, calibrated=calibrated, macs=(*macs, 0.0), params=none,
        latency=none, swap=none, regularised=none,
    )  # fmt: skip
    assert choose(table) == chosen


def test_the_shortlist_holds_the_best_in_nine_samples_of_ten() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=15)
    score = np.round(truth + rng.normal(size=15), 1)  # with ties
    places = []
    draws = np.random.default_rng(8)
    for _ in range(200):
        drawn = [int(i) for i in draws.integers(15, size=15)]
        best = max(drawn, key=lambda i: truth[i])
        others = [i for i in drawn if i != best]
        places.append(1 + sum(score[i] >= score[best] for i in others))
    assert shortlist_positions(score, truth, 8).tolist() == places
    share = {k: sum(place <= k for place in places) / len(places) for k in range(16)}
    k = shortlist_size(score, truth, 8)
    assert share[k] >= 0.9 > share[k - 1]
    assert shortlist_size(truth, truth, 0) == 1
    assert shortlist_size(-truth, truth, 0) > 10


def test_the_order_settles_where_its_correlation_with_the_end_stays_high() -> None:
    rng = np.random.default_rng(0)
    end = rng.normal(2, 0.2, 20)
    losses = np.stack([end + rng.normal(0, spread, 20) for spread in (1, 0.01, 0.3, 0.02, 0.01)] + [end], axis=1)
    found = [float(scipy.stats.spearmanr(losses[:, e], end).statistic) for e in range(6)]
    assert order_curve(losses) == pytest.approx(found)
    assert found[1] > 0.9 > found[2]
    assert settles_at(found, [2, 4, 6, 8, 10, 12]) == 8
    assert settles_at([0.95, 0.9, 1.0], [1, 2, 3]) == 1
    assert settles_at([0.5, 0.89, 1.0], [1, 2, 3]) == 3
    assert settles_at([1.0], [1]) == 1
    assert settles_at([math.nan, math.nan], [1, 2]) is None


def test_a_power_law_foretells_curves_that_cross() -> None:
    rng = np.random.default_rng(0)
    slope = rng.uniform(0.05, 0.8, 20)
    level = 1 + 0.9 * slope  # fast learners start high, and end low
    epochs = list(range(1, 21))
    losses = level[:, None] * np.array(epochs, float) ** -slope[:, None]
    found = extrapolation(losses, epochs)
    assert found is not None
    assert found["from_epoch"] == 10
    assert found["power_law"] == pytest.approx(1)
    assert found["last_value"] == pytest.approx(scipy.stats.spearmanr(losses[:, 9], losses[:, -1]).statistic)
    assert found["saves_time"] == (found["last_value"] < 0.9)
    assert extrapolation(losses[:, :3], [1, 2, 3]) is None


def test_a_refit_is_judged_without_the_network_whose_score_it_is() -> None:
    line = Trained(tuple(made(7)), np.random.default_rng(2).normal(size=7))
    whole = refit.nested(line)
    for index in range(7):
        rest = line.without(index)
        quality = {names: scipy.stats.spearmanr(left_out(rest, names), rest.truth).statistic for names in refit.SETS}
        chosen = max(refit.SETS, key=lambda names: quality[names])
        assert whole[index] == left_out(line, chosen)[index]
    changed = line.truth.copy()
    changed[3] += 100
    again = refit.nested(Trained(line.features, changed))
    assert again[3] == whole[3]  # its own result is not looked at
    assert (again != whole).any()
