"""From the collapsed network to what is handed over: export and gate, latency, judgement on the test images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import platformdirs
from numpy.typing import NDArray

from export.build import gate
from export.build.onnx import OPSET, export
from export.runtime.engine_builder import build_engine
from export.runtime.engines import OnnxRunner
from export.runtime.timing import PUBLISHED, Variant, random_frames, time_variants
from factory.cost.book import LatencyBook, figures, frame_of, open_runner
from factory.data.dataset import Dataset, Part
from factory.profiles import DeviceProfile, LineProfile
from factory.spaces.plan import Plan
from factory.swapout.network import Network
from factory.training.acceptance import judge, threshold_for
from factory.training.compute import Compute
from factory.training.pictures import Standard, predict
from factory.training.robustness import Subject
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
    """Write model.onnx, the engines and gate.json into `folder`.

    Args:
        line: for labels and the escape limit.
        device: that runs the model.
        engines: devices for which an engine is built from the model.
        plan: of the network.
        networks: the trained one in expectation mode, and the collapsed one that is exported.
        data: the threshold is chosen, and parity checked, on its validation images.
        norm: of the training pixels.
        folder: of the stage.

    Raises:
        GateError: if the model scores or decides otherwise than the trained network.
        EnvironmentLacks: if an engine is asked for that this machine cannot build.
    """
    trained, plain = networks
    picture, labels = plan.input, line.classes.labels
    model = export(plain, norm.mean, norm.std, (picture.height, picture.width, picture.channels))
    runner = open_runner(model, plan, device)
    logits = infer(runner, data.val.images)
    threshold = threshold_for(line, data.val, logits)
    expected = predict(trained, data.val.images, norm, EXACT)
    parity = gate.compare(expected, logits, labels, line.classes.good, threshold)
    gate.refuse_unless_equal(parity)
    write_atomic(folder / MODEL, model)
    built = []
    for other in engines:
        engine = build_engine(model, other.engine, timings())
        name = f"{other.name}.engine"
        write_atomic(folder / name, engine.plan)
        built.append(asdict(engine.entry(name, other.precision)))
    write_json(
        folder / "gate.json",
        {"threshold": threshold, "parity": asdict(parity), "opset": OPSET, "engines": built},
    )


def subject(name: str, line: LineProfile, plain: Network, val: Part, norm: Standard) -> Subject:
    """A collapsed network as one that is studied, at its own threshold."""
    logits = partial(predict, plain, norm=norm, compute=EXACT)
    return Subject(name, logits, threshold_for(line, val, logits(val.images)))


def bench(models: Mapping[str, tuple[bytes, Plan]], book: LatencyBook, folder: Path, tick: Callable[[], None]) -> None:
    """Time each model on one frame, interleaved; write bench.json: summary and samples by genome.

    Raises:
        EnvironmentLacks: if the device is not this machine and its station has not measured the models.
    """
    if book.away:
        carried = book.carried([model for model, _ in models.values()], [frame_of(plan) for _, plan in models.values()])
        document = {genome: figures(summary) for genome, summary in zip(models, carried, strict=True)}
    else:
        shape = next(iter(models.values()))[1].input
        frames = random_frames((shape.height, shape.width, shape.channels))
        variants = [Variant(partial(open_runner, model, plan, book.device), frames) for model, plan in models.values()]
        timed = time_variants(variants, BENCH, tick=tick)
        document = {
            genome: figures(latency.summary, latency.samples_ms) for genome, latency in zip(models, timed, strict=True)
        }
    write_json(folder / "bench.json", document)


def accept(
    line: LineProfile,
    device: DeviceProfile,
    models: Mapping[str, tuple[bytes, Plan, float | None]],
    plain: Network,
    test: Part,
    norm: Standard,
    folder: Path,
) -> None:
    """Judge every model on the test images; write acceptance.json and the first model's logits.npy.

    The first model is the one delivered; its decisions are compared with those of `plain` in torch as well.
    """
    rows = []
    for number, (genome, (model, plan, threshold)) in enumerate(models.items()):
        logits = infer(open_runner(model, plan, device), test.images)
        rows.append(judge(genome, line, test, logits, threshold).as_json())
        if number == 0:
            write_array(folder / "logits.npy", logits)
            expected = predict(plain, test.images, norm, EXACT)
            parity = gate.compare(expected, logits, line.classes.labels, line.classes.good, threshold)
    write_json(folder / "acceptance.json", {"judged": rows, "parity": asdict(parity)})
