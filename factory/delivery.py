"""From the collapsed network to what is handed over: export and gate, latency, judgement on the test images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.build import gate
from export.build.literal import literal_logits
from export.build.measure import measure
from export.build.onnx import OPSET, export
from export.build.tensorrt import build_engine
from export.runtime.engines import OnnxRunner
from factory.cost.book import open_runner
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
BENCH_ROUNDS: Final = 5
BENCH_SECONDS: Final = 0.6
BATCH: Final = 256
EXACT: Final = Compute("cpu", "float32", 1)


def infer(runner: OnnxRunner, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (N, K) of uint8 images (N, H, W, C), in batches."""
    parts = [runner.infer(np.ascontiguousarray(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    return np.concatenate(parts)


def logits_at(
    place: Place, model: bytes, plan: Plan, device: DeviceProfile, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Logits (N, K) of images by a model that is made for `place`, as near to it as this machine comes.

    The device itself where ONNX Runtime runs it; TensorRT, whose engines run at the station, as the graph stands.
    """
    if place == "tensorrt" or not device.runtime.startswith("onnxruntime"):
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
        EnvironmentLacks: if an engine is asked for whose builder is not installed.
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
            "threshold": reference.threshold,
            "parity": asdict(parity),
            "opset": OPSET,
            "variants": [variant.as_json(tried) for variant, tried in made.items()],
            "engines": built,
        },
    )


def _engines(device: DeviceProfile, made: Sequence[Variant], folder: Path) -> list[dict[str, Any]]:
    """Build an engine of every variant of a device that passed, float32 first."""
    rows = []
    passed = {(variant.precision, variant.place): variant for variant in made if not variant.reasons}
    for variant in (passed[key] for key in wanted([device]) if key in passed):
        engine = build_engine(variant.model, device.runtime, device.compute_capabilities)
        name = f"{device.name}.{variant.precision}.engine"
        write_atomic(folder / name, engine.plan)
        rows.append({"path": name, "runtime": device.runtime, "precision": variant.precision, "model": variant.name,
                     "version": engine.version, "targets": list(engine.targets)})  # fmt: skip
    return rows


def subject(name: str, line: LineProfile, plain: Network, val: Part, norm: Standard) -> Subject:
    """A collapsed network as one that is studied, at its own threshold."""
    logits = partial(predict, plain, norm=norm, compute=EXACT)
    return Subject(name, logits, threshold_for(line, val, logits(val.images)))


def bench(
    models: Mapping[str, tuple[Mapping[str, bytes], Plan]],
    device: DeviceProfile,
    size_limit_mb: float,
    folder: Path,
    tick: Callable[[], None],
) -> None:
    """Time every precision of each network on one frame, all in turn, and choose the one to deliver.

    Writes bench.json: of every genome the precision chosen, its latency and samples; and variants.json: the latency of
    every precision.
    """
    files = [(genome, precision) for genome, (own, _) in models.items() for precision in own]
    runners = [partial(open_runner, models[genome][0][p], models[genome][1], device) for genome, p in files]
    shape = next(iter(models.values()))[1].input
    frame = np.random.default_rng(0).integers(0, 256, (1, shape.height, shape.width, shape.channels), np.uint8)
    latencies = measure(runners, frame, rounds=BENCH_ROUNDS, seconds=BENCH_SECONDS, tick=tick)
    timed = dict(zip(files, latencies, strict=True))
    chosen, all_of = {}, {}
    for genome, (own, _) in models.items():
        samples = {precision: timed[genome, precision].samples_ms for precision in own}
        best = fastest(samples, {precision: len(model) / 1e6 for precision, model in own.items()}, size_limit_mb)
        rounded = [round(ms, 4) for ms in samples[best]]
        chosen[genome] = {"precision": best, **timed[genome, best].as_json(), "samples_ms": rounded}
        all_of[genome] = {precision: timed[genome, precision].as_json() for precision in own}
    write_json(folder / "bench.json", chosen)
    write_json(folder / "variants.json", all_of)


def accept(
    line: LineProfile,
    device: DeviceProfile,
    models: Mapping[str, tuple[bytes, Plan, float | None]],
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
    for number, (genome, (model, plan, threshold)) in enumerate(models.items()):
        logits = infer(open_runner(model, plan, device), test.images)
        rows.append(judge(genome, line, test, logits, threshold).as_json())
        if number == 0:
            write_array(folder / "logits.npy", logits)
            expected = gate.Scored(predict(plain, test.images, norm, EXACT), exact_threshold)
            scored = gate.Scored(logits, threshold)
            parity = gate.compare(expected, scored, line.classes.labels, line.classes.good)
    write_json(folder / "acceptance.json", {"judged": rows, "parity": asdict(parity)})
