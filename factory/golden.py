"""The golden pictures of a bundle: validation pictures as they are stored, with their scores by every model in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.build.pack import golden_scores
from export.runtime import image
from export.runtime.decision import reject_scores, softmax
from export.runtime.manifest import Role
from factory.delivery import MODEL, logits_at
from factory.outcome import Delivered, Results
from factory.profiles import Classes

PER_CLASS: Final = 4
# Of a probability: another processor rounds otherwise, another model scores otherwise. In reduced precision a value
# that lies between two steps may fall on either side.
TOLERANCE: Final[Mapping[str, float]] = {"fp32": 1e-3, "fp16": 5e-3, "int8": 2e-2}


def told_models(chosen: Delivered) -> dict[str, dict[str, Any]]:
    """The models of a bundle by their path in it, each with its row of the gate.

    The first is the delivered one; then come those that engines were built from, where that is another.
    """
    delivered = chosen.variant
    sources = {engine["model"] for engine in chosen.engines} - {delivered["path"]}
    rows = [row for row in chosen.gate["variants"] if row["path"] in sources]
    # Its float32 file is called as the delivered one is.
    others = {f"engines/{row['path']}": row for row in rows}
    return {MODEL: delivered, **others}


def path_of(model: str) -> str:
    """Where the golden scores of a model stand in the bundle."""
    return "golden/scores.json" if model == MODEL else f"golden/{Path(model).stem}.json"


def golden_files(results: Results, root: Path) -> dict[str, tuple[Role, Path | bytes]]:
    """Pictures and scores of a bundle by their path in it.

    Pictures on which another machine's rounding could change a decision come last: they would refuse a sound bundle.
    """
    val, line, models = results.data.val, results.line, told_models(results.chosen)
    doubtful = np.zeros(len(val.labels), np.bool_)
    for row in models.values():
        own = margins(scores_of(results, row, val.images), line.classes, row["threshold"])
        doubtful |= own <= TOLERANCE[row["precision"]]
    drawn = np.random.default_rng(0).permutation(len(val.labels))
    drawn = drawn[np.argsort(doubtful[drawn], kind="stable")]
    rows = np.concatenate([drawn[val.labels[drawn] == k][:PER_CLASS] for k in range(len(line.classes.labels))])
    sources = [root / val.paths[row] for row in rows]
    names = [f"golden/{number:03d}{source.suffix.lower()}" for number, source in enumerate(sources)]
    size, classes = line.input, line.classes
    frames = np.stack([image.load(source, size.height, size.width, size.channels) for source in sources])
    files: dict[str, tuple[Role, Path | bytes]] = {
        name: ("golden-frame", source) for name, source in zip(names, sources, strict=True)
    }
    for path, row in models.items():
        scores = scores_of(results, row, frames)
        told = golden_scores(
            names, scores, labels=classes.labels, good=classes.good, threshold=row["threshold"]
        )  # fmt: skip
        files[path_of(path)] = ("golden-scores", told)
    return files


def scores_of(results: Results, row: Mapping[str, Any], frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Probabilities (N, K) of frames by one variant of the delivered network, as the gate judged it."""
    chosen = results.chosen
    model = (chosen.export.path / row["path"]).read_bytes()
    return softmax(logits_at(row["place"], model, chosen.plan, results.device, frames))


def margins(scores: NDArray[np.float64], classes: Classes, threshold: float | None) -> NDArray[np.float64]:
    """How far the scores of each row of probabilities (N, K) may move before its decision could change, (N,)."""
    others = [k for k, label in enumerate(classes.labels) if label != classes.good]
    best = np.sort(scores[:, others], axis=1)
    label = (best[:, -1] - best[:, -2]) / 2 if len(others) > 1 else np.full(len(scores), np.inf)
    if classes.good is None or threshold is None:
        return label
    rejects = reject_scores(scores, classes.labels, classes.good)
    own: NDArray[np.float64] = np.abs(rejects - threshold)
    return np.where(rejects >= threshold, np.minimum(own, label), own)
