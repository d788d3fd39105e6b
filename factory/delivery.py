"""From the collapsed network to what is handed over: export and gate, latency, judgement on the test images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import platformdirs
from numpy.typing import NDArray

from export.build import gate
from export.build.literal import literal_logits
from export.build.onnx import OPSET, export
from export.runtime.engine_builder import build_engine
from export.runtime.engines import OnnxRunner
from export.runtime.timing import PUBLISHED, Summary, random_frames, time_variants
from export.runtime.timing import Variant as Timed
from factory.cost.book import LatencyBook, figures, frame_of, open_runner, runs_here
from factory.data.dataset import Dataset, Part
from factory.profiles import DeviceProfile, LineProfile
from factory.spaces.plan import Plan
from factory.swapout.network import Network
from factory.training.acceptance import judge, threshold_for
from factory.training.compute import Compute
from factory.training.pictures import Standard, predict
from factory.training.robustness import Subject
from factory.variants import Judge, Place, Variant, fastest, variants, wanted
from factory.workspace import write_array, write_atomic, write_json

MODEL: Final = "model.onnx"
BENCH: Final = PUBLISHED
BATCH: Final = 256
EXACT: Final = Compute("cpu", "float32", 1)


def timings() -> Path:
    """The folder of this machine's timing caches, shared by all lines."""
    return Path(platformdirs.user_cache_dir("edge-model-factory")) / "timings"


def infer(runner: OnnxRunner, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (N, K) of uint8 images (N, H, W, C), in batches."""
    parts = [runner.infer(np.ascontiguousarray(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    return np.concatenate(parts)


def logits_at(
    place: Place, model: bytes, plan: Plan, device: DeviceProfile, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Logits (N, K) of images by a model that is made for `place`, as near to it as this machine comes.

    The device's own runtime where it runs here; one that runs at the station alone, as the graph stands.
    """
    if place == "tensorrt" or not runs_here(device):
        return literal_logits(model, images)
    return infer(open_runner(model, plan, device), images)


def export_network(
    line: LineProfile,
    device: DeviceProfile,
    engines: Sequence[DeviceProfile],
    plan: Plan,
    networks: tuple[Network, Network],
    data: Dataset,
    norm: Standard,
    folder: Path,
) -> None:
    """Write the model in every precision that passes the gate, the engines and gate.json into `folder`.

    Args:
        line: for labels and the limits.
        device: that runs the model.
        engines: devices for which engines are built.
        plan: of the network.
        networks: the trained one in expectation mode, and the collapsed one that is exported.
        data: thresholds are chosen, and models judged, on its validation images; its training images calibrate int8.
        norm: of the training pixels.
        folder: of the stage.

    Raises:
        GateError: if the float32 model scores or decides otherwise than the trained network.
        EnvironmentLacks: if an engine is asked for that this machine cannot build.
    """
    trained, plain = networks
    picture, classes = plan.input, line.classes
    model = export(plain, norm.mean, norm.std, (picture.height, picture.width, picture.channels))

    def logits_of(own: bytes, place: Place) -> NDArray[np.float32]:
        return logits_at(place, own, plan, device, data.val.images)

    logits = logits_of(model, "any")
    reference = gate.Scored(logits, threshold_for(line, data.val, logits))
    expected = gate.Scored(predict(trained, data.val.images, norm, EXACT), reference.threshold)
    parity = gate.compare(expected, reference, classes.labels, classes.good)
    gate.refuse_unless_equal(parity)
    judge = Judge(line, data.val, logits_of, reference)
    asked = wanted([device, *engines])
    made = variants(model, asked, judge, data, line.training.seed, folder)
    for variant in made:
        if not variant.reasons:
            write_atomic(folder / variant.name, variant.model)
    built = [row for other in engines for row in _engines(other, list(made), folder)]
    write_json(
        folder / "gate.json",
        {
            "device": device.name,
            "threshold": reference.threshold,
            "parity": asdict(parity),
            "opset": OPSET,
            "variants": [variant.as_json(tried) for variant, tried in made.items()],
            "engines": built,
        },
    )


def _engines(device: DeviceProfile, made: Sequence[Variant], folder: Path) -> list[dict[str, Any]]:
    """Build an engine of every variant of a device that passed, float32 first, each told with the model it is of."""
    rows = []
    passed = {(variant.precision, variant.place): variant for variant in made if not variant.reasons}
    for variant in (passed[key] for key in wanted([device]) if key in passed):
        engine = build_engine(variant.model, device.engine, timings())
        name = f"{device.name}.{variant.precision}.engine"
        write_atomic(folder / name, engine.plan)
        entry = asdict(engine.entry(name, variant.precision))
        rows.append({"device": device.name, "model": variant.name, "engine": entry})
    return rows


def subject(name: str, line: LineProfile, plain: Network, val: Part, norm: Standard) -> Subject:
    """A collapsed network as one that is studied, at its own threshold."""
    logits = partial(predict, plain, norm=norm, compute=EXACT)
    return Subject(name, logits, threshold_for(line, val, logits(val.images)))


def bench(
    models: Mapping[str, tuple[Mapping[str, bytes], Plan]],
    book: LatencyBook,
    size_limit_mb: float,
    folder: Path,
    tick: Callable[[], None],
) -> None:
    """Time every precision of each network on one frame, all in turn, and choose the one to deliver.

    Writes bench.json: of every genome the precision chosen, its latency and samples; and variants.json: the latency of
    every precision.

    Raises:
        EnvironmentLacks: if the device is not this machine and its station has not measured the models.
    """
    files = [(genome, precision) for genome, (own, _) in models.items() for precision in own]
    timed = dict(zip(files, _timed([(models[g][0][p], models[g][1]) for g, p in files], book, tick), strict=True))
    chosen, all_of = {}, {}
    for genome, (own, _) in models.items():
        latencies = {precision: timed[genome, precision][0] for precision in own}
        best = fastest(latencies, {precision: len(model) / 1e6 for precision, model in own.items()}, size_limit_mb)
        chosen[genome] = {"precision": best, **figures(*timed[genome, best])}
        all_of[genome] = {precision: asdict(latency) for precision, latency in latencies.items()}
    write_json(folder / "bench.json", chosen)
    write_json(folder / "variants.json", all_of)


def _timed(
    files: Sequence[tuple[bytes, Plan]], book: LatencyBook, tick: Callable[[], None]
) -> list[tuple[Summary, Sequence[float]]]:
    """Latency and samples of each file; a station that is away carries no samples home."""
    if book.away:
        return [(own, ()) for own in book.carried([m for m, _ in files], [frame_of(plan) for _, plan in files])]
    shape = files[0][1].input
    frames = random_frames((shape.height, shape.width, shape.channels))
    variants = [Timed(partial(open_runner, model, plan, book.device), frames) for model, plan in files]
    return [(latency.summary, latency.samples_ms) for latency in time_variants(variants, BENCH, tick=tick)]


def accept(
    line: LineProfile,
    device: DeviceProfile,
    models: Mapping[str, tuple[Place, bytes, Plan, float | None]],
    plain: Network,
    exact_threshold: float | None,
    test: Part,
    norm: Standard,
    folder: Path,
) -> None:
    """Judge every model on the test images; write acceptance.json and the first model's logits.npy.

    The first model is the one delivered; its decisions are compared with those of `plain` in torch, at the threshold of
    the float32 model, as well.
    """
    rows = []
    for number, (genome, (place, model, plan, threshold)) in enumerate(models.items()):
        logits = logits_at(place, model, plan, device, test.images)
        rows.append(judge(genome, line, test, logits, threshold).as_json())
        if number == 0:
            write_array(folder / "logits.npy", logits)
            expected = gate.Scored(predict(plain, test.images, norm, EXACT), exact_threshold)
            scored = gate.Scored(logits, threshold)
            parity = gate.compare(expected, scored, line.classes.labels, line.classes.good)
    write_json(folder / "acceptance.json", {"judged": rows, "parity": asdict(parity)})
