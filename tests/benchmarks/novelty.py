"""Does the novelty that a bundle carries know what is unlike the training pictures?

    python -m tests.benchmarks novelty

Trained on one set's training pictures, limit on its validation pictures at a share of 0.5 %. Asked of the test pictures
(false reviews), of the same made worse, of blank ones, of other products, and of each class in turn, left out of
training and validation. Beside it, at the same limit rule: a Mahalanobis distance in the same statistics, and in the
8 x 8 thumbnail, and the nearest of the same 256 centres in that thumbnail. NEU steel (48 x 48), solar cells (64 x 64),
and CIFAR-10 (lossless part, 32 x 32), which no inspection line looks like.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from export.build.reference import CENTRES, LEAST_SCALE, measured, quantile_rank
from export.runtime.image import fit
from factory.data import dataset
from factory.data.dataset import Dataset, Part
from factory.profiles import load_line
from factory.training.corruptions import CORRUPTIONS
from tests.benchmarks import modes

Images = NDArray[np.uint8]
Real = NDArray[np.float64]
Score = Callable[[Real], Real]

SHARE: Final = 0.005
ASKED: Final = 400  # test pictures
SEVERITIES: Final = (1, 3, 5)
HIDDEN: Final = (0.02, 0.1, 0.3)  # shares of the picture


def load_whole(name: str) -> Dataset:
    """A set at the size of its line, CIFAR-10 at 32 x 32."""
    if name.startswith("cifar10"):
        return modes.load(name)[1]
    line, root = load_line(name)
    with tempfile.TemporaryDirectory() as folder:
        dataset.prepare(line, root, dataset.list_items(line, root), Path(folder), lambda: None)
        found = dataset.load(line, Path(folder))
        parts = [Part(np.array(p.images), p.labels, (), ()) for p in (found.train, found.val, found.test)]
    return Dataset(found.labels, found.good, *parts)


def _statistics(images: Images) -> Real:
    return np.array([own.vector for own in measured(images)])


def _thumbnail(images: Images) -> Real:
    number, height, width = images.shape[:3]
    rows, columns = (np.arange(9) * side // 8 for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(images.astype(np.float64), rows[:-1], axis=1), columns[:-1], axis=2)
    return (sums / np.multiply.outer(np.diff(rows), np.diff(columns))[None, :, :, None]).reshape(number, -1)


def _standard(train: Real) -> Score:
    mean, scale = train.mean(axis=0), np.maximum(train.std(axis=0), LEAST_SCALE)
    return lambda vectors: (vectors - mean) / scale


def _nearest(train: Real) -> Score:
    """What `familiar` and `Novelty` do, for many pictures at once."""
    place = _standard(train)
    centres = KMeans(min(CENTRES, len(train)), n_init=1, random_state=0).fit(place(train)).cluster_centers_
    squares = (centres**2).sum(axis=1)

    def score(vectors: Real) -> Real:
        own = place(vectors)
        near: Real = (squares - 2 * own @ centres.T).min(axis=1) + (own**2).sum(axis=1)
        return np.sqrt(near.clip(0) / own.shape[1])

    return score


def _mahalanobis(train: Real) -> Score:
    place = _standard(train)
    fitted = LedoitWolf().fit(place(train))
    return lambda vectors: np.sqrt(fitted.mahalanobis(place(vectors)))


RULES: Final[Mapping[str, tuple[Callable[[Images], Real], Callable[[Real], Score]]]] = {
    "novelty": (_statistics, _nearest),
    "Mahalanobis": (_statistics, _mahalanobis),
    "8 x 8, Mahalanobis": (_thumbnail, _mahalanobis),
    "8 x 8, nearest": (_thumbnail, _nearest),
}


def _hidden(images: Images, share: float) -> Images:
    """A square of one grey lies somewhere on each picture."""
    hidden, side = images.copy(), round(images.shape[1] * share**0.5)
    for row, own in enumerate(hidden):
        rng = np.random.default_rng([0, row])
        top, left = rng.integers(0, np.array(own.shape[:2]) - side + 1)
        own[top : top + side, left : left + side] = rng.integers(0, 256)
    return hidden


def _probes(test: Images, others: Mapping[str, Images]) -> dict[str, list[Images]]:
    shape = test.shape[1:]
    probes = {kind: [corrupt(test, severity, 0) for severity in SEVERITIES] for kind, corrupt in CORRUPTIONS.items()}
    probes["hidden in part"] = [_hidden(test, share) for share in HIDDEN]
    probes["blank"] = [np.stack([np.full(shape, grey, np.uint8) for grey in range(0, 256, 5)])]
    for name, images in others.items():
        probes[name] = [np.stack([fit(own, *shape) for own in images[:ASKED]])]
    return probes


def _limit(novelty: Real) -> float:
    return float(np.sort(novelty)[min(len(novelty), quantile_rank(len(novelty), SHARE)) - 1])


def _told(score: Score, limit: float, usual: Real, unlike: Real) -> tuple[float, float]:
    """Share found, and AUROC against usual pictures."""
    found = score(unlike)
    truth = np.repeat([0, 1], [len(usual), len(found)])
    return float((found > limit).mean()), float(roc_auc_score(truth, np.concatenate([score(usual), found])))


def _class_out(data: Dataset, rule: str) -> tuple[float, float]:
    measure, learn = RULES[rule]
    train, val, test = (measure(part.images) for part in (data.train, data.val, data.test))
    rows = []
    for label in range(len(data.labels)):
        kept, held, own = (part.labels != label for part in (data.train, data.val, data.test))
        score = learn(train[kept])
        rows.append(_told(score, _limit(score(val[held])), test[own], test[~own]))
    return tuple(np.mean(rows, axis=0).tolist())


def _study(data: Dataset, others: Mapping[str, Images]) -> None:
    test = data.test.images[np.random.default_rng(0).permutation(len(data.test.labels))[:ASKED]]
    probes = _probes(test, others)
    print(f"| pictures | {' | '.join(RULES)} |\n|---|{'---|' * len(RULES)}")
    scored = {}
    for rule, (measure, learn) in RULES.items():
        score = learn(measure(data.train.images))
        scored[rule] = measure, score, _limit(score(measure(data.val.images))), measure(test)
    false = [f"{(score(usual) > limit).mean():.1%}" for _, score, limit, usual in scored.values()]
    print(f"| test, as they are: false reviews | {' | '.join(false)} |")
    for kind, levels in probes.items():
        cells = []
        for measure, score, limit, usual in scored.values():
            told = [_told(score, limit, usual, measure(images)) for images in levels]
            shares = " ".join(f"{100 * share:.0f}" for share, _ in told)
            cells.append(f"{shares} % ({' '.join(f'{area:.2f}' for _, area in told)})")
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)
    if data.good is None:
        outs = [f"{100 * share:.0f} % ({area:.2f})" for share, area in (_class_out(data, rule) for rule in RULES)]
        print(f"| a class left out, mean | {' | '.join(outs)} |", flush=True)


def main() -> None:
    """Print for each set the share found unlike and the AUROC, at severities 1, 3 and 5 where there are any."""
    names = ("steel-surface", "solar-cells", "cifar10-lossless")
    sets = {name: load_whole(name) for name in names}
    for name, data in sets.items():
        sizes = [len(part.labels) for part in (data.train, data.val, data.test)]
        print(f"\n{name}: {sizes[0]} training, {sizes[1]} validation, {sizes[2]} test pictures; found (AUROC)\n")
        _study(data, {f"product: {other}": sets[other].test.images for other in names if other != name})
