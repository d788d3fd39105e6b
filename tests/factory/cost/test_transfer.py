import numpy as np
import pytest
from scipy.stats import spearmanr

from factory.cost.latency import Law, fit_law, terms_of
from factory.cost.transfer import fit_latency, fit_transfer
from tests.factory.cost.conftest import drawn
from tests.factory.cost.test_latency import LAW, timed

OWN = 13


def teacher(factors: np.ndarray) -> Law:
    """The law of a device on which each feature costs so many times what it costs here."""
    plans = drawn(80, seed=7)
    return fit_law(terms_of(plans), terms_of(plans) @ (LAW * factors))


def test_what_another_device_taught_helps_where_little_was_measured() -> None:
    """Mean error on networks never seen, over several draws of a dozen measured ones."""
    unseen = drawn(200, seed=50)
    terms, truth = terms_of(unseen), timed(unseen)
    alike = teacher(np.random.default_rng(0).uniform(2.8, 3.2, OWN))
    both = np.column_stack([terms, alike.predict(terms)])
    alone, taught = [], []
    for seed in range(8):
        plans = drawn(12, seed)
        measured = list(timed(plans, 0.1, seed))
        for found, read, model in (
            (alone, terms, fit_latency(plans, measured)),
            (taught, both, fit_latency(plans, measured, [alike])),
        ):
            found.append(np.mean(np.abs(model.law.predict(read) / truth - 1)))
    assert np.mean(taught) < 0.7 * np.mean(alone)


def test_a_device_that_is_nothing_alike_is_not_listened_to() -> None:
    plans, rng = drawn(240, seed=1), np.random.default_rng(0)
    terms, ms, others = terms_of(plans), timed(plans), rng.lognormal(0, 2, (240, 3))
    law = fit_transfer(terms[:40], others[:40], timed(plans[:40], 0.02))
    alone = fit_law(terms[:40], timed(plans[:40], 0.02))
    taught = law.predict(np.column_stack([terms, others])[40:])
    assert len(law.columns) >= OWN
    assert np.median(np.abs(taught / ms[40:] - 1)) < 1.2 * np.median(np.abs(alone.predict(terms[40:]) / ms[40:] - 1))


def test_the_law_is_the_best_of_three_by_errors_left_out() -> None:
    plans = drawn(25, seed=4)
    terms, ms = terms_of(plans), timed(plans, 0.1)
    others = np.column_stack([timed(plans, 0.1, seed=8), 2 * timed(plans, 0.2, seed=9)])
    both = np.column_stack([terms, others])
    laws = [fit_law(both, ms, columns) for columns in (range(OWN), (0, 13, 14), range(15))]
    chosen = fit_transfer(terms, others, ms)
    assert chosen in laws
    assert chosen.mean_error == min(law.mean_error for law in laws)


def test_without_others_it_is_the_law_of_the_features() -> None:
    plans = drawn(25, seed=4)
    terms, ms = terms_of(plans), timed(plans, 0.1)
    assert fit_transfer(terms, np.empty((25, 0)), ms) == fit_law(terms, ms)


def test_many_devices_of_a_table_teach_a_new_one_from_twenty_measurements() -> None:
    """Devices of two kinds; the new one is a mixture of them that no feature of the table describes."""
    rng = np.random.default_rng(3)
    hidden = rng.lognormal(0, 0.5, (400, 5))
    devices = hidden @ rng.uniform(0.2, 1.0, (5, 8)) * rng.lognormal(0, 0.02, (400, 8))
    new = hidden @ rng.uniform(0.2, 1.0, 5)
    features = np.column_stack([np.ones(400), hidden[:, :2]])
    train, test = slice(0, 20), slice(20, None)
    alone = fit_law(features[train], new[train]).predict(features[test])
    law = fit_transfer(features[train], devices[train], new[train])
    taught = law.predict(np.column_stack([features, devices])[test])
    assert spearmanr(taught, new[test])[0] > max(0.97, spearmanr(alone, new[test])[0])
    assert np.mean(np.abs(taught / new[test] - 1) <= 0.1) > 0.9


def test_teachers_that_know_each_place_teach_more_than_those_that_know_counts() -> None:
    """Tables of 8 places with 4 operators; the new device's is a mixture of two others' that no count describes."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(4, size=(400, 8))
    at = (chosen[:, :, None] == np.arange(4)).astype(float)
    places = np.column_stack([np.ones(400), at.reshape(400, -1)])
    counts = np.column_stack([np.ones(400), at.sum(1)])
    tables = rng.lognormal(0, 1, (3, 33))
    new = np.array([sum(1.5 * t[0] + t[1:].reshape(8, 4)[range(8), row].sum() for t in tables[:2]) for row in chosen])
    devices = [places @ table * rng.lognormal(0, 0.05, 400) for table in tables]
    known, train, test = slice(0, 150), slice(150, 170), slice(170, None)
    ranks = []
    for terms in (counts, places):
        said = np.column_stack([fit_law(terms[known], ms[known]).predict(terms) for ms in devices])
        taught = fit_transfer(counts[train], said[train], new[train]).predict(np.column_stack([counts, said])[test])
        ranks.append(spearmanr(taught, new[test])[0])
    assert ranks[0] < 0.9 < 0.97 < ranks[1]


def test_a_taught_model_reads_its_teachers() -> None:
    plans = drawn(20, seed=1)
    model = fit_latency(plans, list(timed(plans)), [teacher(np.full(OWN, 3.0))])
    assert len(model.teachers) == 1
    assert model.predict(plans[0]) == pytest.approx(timed(plans)[0], rel=0.1)
