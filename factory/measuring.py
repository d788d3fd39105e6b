"""What `factory measure` does: ONNX files and a line's networks timed, and the way to a station and back."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import onnx

from export.build.onnx import INPUT, OUTPUT
from export.runtime.contents import MANIFEST_NAME, SIGNATURE_NAME
from export.runtime.errors import UsageError
from export.runtime.figures import machine_lines, table
from export.runtime.fingerprint import Fingerprint, fingerprint
from export.runtime.keys import key_id, load_private, load_trusted
from export.runtime.kit import KIT_DOMAIN, Frame, Kit, KitManifest, Measurements, Network, read_kit, read_measurements
from export.runtime.manifest import Signer, canonical_bytes
from export.runtime.timing import CV_LIMIT, PUBLISHED, Effort, Variant, random_frames, time_variants
from export.runtime.trust import sign
from factory.cost.away import Unmeasured, add, forget, load_measured, measured_path, settings_of, wanted
from factory.cost.book import LatencyBook, is_away, open_model
from factory.groundwork import Groundwork
from factory.profiles import DeviceProfile, load_device, load_line
from factory.workspace import fsync_folder, read_json, sha256, write_atomic

EFFORT: Final[Effort] = PUBLISHED


@dataclass(frozen=True, slots=True)
class Model:
    """An ONNX file that takes pictures as a station sends them."""

    name: str
    data: bytes
    input_name: str
    output_name: str
    frame: Frame


def read_model(path: Path) -> Model:
    """Read an ONNX file.

    Raises:
        UsageError: unless it takes uint8 (N, height, width, channels), N 1 or any, and gives float32 (N, classes).
    """
    try:
        data = path.read_bytes()
        graph = onnx.load_model_from_string(data).graph
    except OSError as error:
        raise UsageError(f"cannot read {path}", found=error.strerror, fix="name an ONNX file") from None
    except Exception as error:  # protobuf's errors are of several kinds
        raise UsageError(f"{path} is no ONNX file", found=str(error), fix="name an ONNX file") from None
    constants = {tensor.name for tensor in graph.initializer}
    inputs, outputs = [item for item in graph.input if item.name not in constants], list(graph.output)
    frame = _frame(inputs[0], outputs[0]) if len(inputs) == 1 and outputs else None
    if frame is None:
        raise UsageError(
            f"{path} does not take pictures as a station sends them",
            expected="uint8 (N, height, width, 1 or 3) in, float (N, classes) out, N 1 or any, the others in numbers",
            found="; ".join(map(_type, (*inputs, *outputs))) or "nothing in, nothing out",
            fix="export it by `factory export`, or put Cast and Transpose before its first node",
        )
    return Model(str(path), data, inputs[0].name, outputs[0].name, frame)


def _frame(taken: onnx.ValueInfoProto, given: onnx.ValueInfoProto) -> Frame | None:
    kinds = (taken.type.tensor_type.elem_type, given.type.tensor_type.elem_type)
    sizes, out = _sizes(taken), _sizes(given)
    if kinds != (onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT) or (len(sizes), len(out)) != (4, 2):
        return None
    batch, height, width, channels = sizes
    if batch not in (0, 1) or min(height, width, out[1]) < 1 or channels not in (1, 3):  # 0 stands for any
        return None
    return Frame(height=height, width=width, channels=channels, classes=out[1])


def _sizes(item: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in item.type.tensor_type.shape.dim]


def _type(item: onnx.ValueInfoProto) -> str:
    kind = onnx.TensorProto.DataType.Name(item.type.tensor_type.elem_type).lower()
    sizes = (dim.dim_param or str(dim.dim_value or "?") for dim in item.type.tensor_type.shape.dim)
    return f"{item.name} {kind} ({', '.join(sizes)})"


def turns(files: int, batches: int, every_ms: float) -> int:
    """How many turns `time_models` takes."""
    return EFFORT.rounds * files * batches * (3 if every_ms else 2)


def time_models(
    device: DeviceProfile, models: Sequence[Model], batches: Sequence[int], every_ms: float, tick: Callable[[], None]
) -> dict[str, Any]:
    """Time ONNX files here as `device` says: every batch with transfers, without, and after idling `every_ms`.

    Raises:
        EnvironmentLacks: if the device's runtime cannot run here.
    """
    machine = fingerprint(device.runtime)
    variants: list[tuple[dict[str, Any], Variant]] = []
    for model in models:
        own = partial(open_model, model.data, device, model.input_name, model.output_name, model.frame)
        for batch in batches:
            frames = random_frames((model.frame.height, model.frame.width, model.frame.channels), batch)
            ways = {"back to back": Variant(own, frames), "without transfers": Variant(own, frames, transfers=False)}
            if every_ms:
                ways["after idle"] = Variant(own, frames, every_ms=every_ms)
            named = {"model": model.name, "sha256": sha256(model.data)}
            variants += [(named | {"way": way}, variant) for way, variant in ways.items()]
    timed = time_variants([variant for _, variant in variants], EFFORT, tick=tick)
    rows = [named | latency.as_json() for (named, _), latency in zip(variants, timed, strict=True)]
    return _document(device, rows, machine) | {"every_ms": every_ms or None, "cv_limit": CV_LIMIT}


def carried_models(device: DeviceProfile, models: Sequence[Model], runs: Path) -> dict[str, Any]:
    """What the station of an away device measured of ONNX files.

    Raises:
        Unmeasured: if it did not measure all of them; they are remembered.
        UsageError: if a kit cannot hold one of them.
    """
    for model in models:
        if (model.input_name, model.output_name) != (INPUT, OUTPUT):
            raise UsageError(
                f"{model.name} cannot go into a kit",
                expected=f"input {INPUT!r}, output {OUTPUT!r}",
                found=f"input {model.input_name!r}, output {model.output_name!r}",
                fix="rename them, or export the network by `factory export`",
            )
    found = LatencyBook(runs, device).carried([model.data for model in models], [model.frame for model in models])
    rows = [
        {"model": model.name, "sha256": sha256(model.data), "way": "back to back", **asdict(summary)}
        for model, summary in zip(models, found, strict=True)
    ]
    return _document(device, rows, _machine(device)) | {"every_ms": None, "cv_limit": CV_LIMIT}


def _machine(device: DeviceProfile) -> Fingerprint:
    """The machine whose figures are shown: this one, or the device's as last carried home."""
    if not is_away(device):
        return fingerprint(device.runtime)
    measured = load_measured(device)
    return Fingerprint({}, {}) if measured is None else Fingerprint(measured.identity, measured.files[-1].circumstances)


def _document(device: DeviceProfile, rows: list[dict[str, Any]], machine: Fingerprint) -> dict[str, Any]:
    settings = asdict(settings_of(device)) | {"measured": "station" if is_away(device) else "here"}
    return {"device": settings, "rows": rows, "fingerprint": asdict(machine)}


def _ground(name: str, line: str, runs: Path) -> Groundwork:
    """A line with that kind of station first; one that its profile does not have gets the budget of the first."""
    profile, root = load_line(line)
    if name in profile.devices:
        return Groundwork(profile.at(name), root, runs)
    budget = profile.budget.model_copy(update={"device": name})
    return Groundwork(profile.model_copy(update={"budget": budget}), root, runs)


def line_latencies(name: str, line: str, runs: Path) -> dict[str, Any]:
    """The networks that a line's search wants to know on a device, timed or read back, with their medians in ms.

    Raises:
        Unmeasured: if the device is not this machine and its station did not measure all of them.
    """
    ground = _ground(name, line, runs)
    with ground.workspace.locked():
        rows = read_json(ground.latency_stage.path / "latency.json")["measured"]
    shown = [{"genome": row["genome"], "p50_ms": row["measured_ms"]} for row in rows]
    return _document(ground.device, shown, _machine(ground.device)) | {"line": ground.line.name}


def lines(document: Mapping[str, Any]) -> list[str]:
    """What was measured, for people: ONNX files with all figures, or a line's networks, fastest first."""
    device, rows = document["device"], document["rows"]
    title = f"device {device['name']}: {device['runtime']}, threads {device['threads']}, measured {device['measured']}"
    if "line" in document:
        ordered = sorted(rows, key=lambda row: float(row["p50_ms"]))
        body = [f"{'p50 ms':>10}  network of {document['line']}"]
        body += [f"{row['p50_ms']:10.3f}  {row['genome']}" for row in ordered]
    else:
        providers = ", ".join(sorted({row["provider"] for row in rows}))
        title += f", {providers}"
        body = table([(_named(row, document["every_ms"]), row) for row in rows])
    return [title, *body, *machine_lines(document["fingerprint"])]


def _named(row: Mapping[str, Any], every_ms: float | None) -> str:
    way = f"every {every_ms:g} ms" if row["way"] == "after idle" else row["way"]
    return f"{Path(row['model']).name}, batch {row['batch']}, {way}"


# to the station and back


def pack_kit(name: str, line: str | None, runs: Path, key: Path, destination: Path) -> Kit:
    """Write a signed folder with the networks that the station of a device has yet to measure.

    With a line those of its pictures and classes, and first what its search begins with.

    Raises:
        UsageError: if the device is measured here, nothing is wanted, or the folder exists or cannot be written.
    """
    device = _away(name)
    private = load_private(key)
    if destination.exists():
        raise UsageError(f"{destination} exists already", expected="a new folder", fix="name another by --kit")
    frame = None
    if line is not None:
        ground = _ground(name, line, runs)
        frame = Frame(**asdict(ground.picture), classes=ground.classes)
        with suppress(Unmeasured):  # which is what the kit is for
            line_latencies(name, line, runs)
    chosen = [(shape, path.read_bytes()) for shape, path in wanted(runs, device.name) if frame in (None, shape)]
    if not chosen:
        raise UsageError(
            f"nothing is left to measure on device {device.name!r}",
            expected="networks that a search asked for and its station has not measured",
            found=f"none under {runs / 'devices'}" + ("" if frame is None else f" for pictures of {frame}"),
            fix="go on with the search; `--line LINE` asks for the networks that a line's search begins with",
        )
    contents = {f"networks/{sha256(data)}.onnx": (shape, data) for shape, data in chosen}
    manifest = KitManifest(
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        device=settings_of(device),
        input_name=INPUT,
        output_name=OUTPUT,
        networks=tuple(
            Network(path=path, size=len(data), sha256=sha256(data), frame=shape)
            for path, (shape, data) in contents.items()
        ),
        signer=Signer(key_id=key_id(private.public_key()), name=key.stem),
    )
    partial_folder = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    try:
        (partial_folder / "networks").mkdir(parents=True)
        for path, (_, data) in contents.items():
            write_atomic(partial_folder / path, data)
        write_atomic(partial_folder / MANIFEST_NAME, canonical_bytes(manifest))
        write_atomic(partial_folder / SIGNATURE_NAME, sign(canonical_bytes(manifest), private, KIT_DOMAIN))
        kit = read_kit(partial_folder, {key_id(private.public_key()): private.public_key()})
        partial_folder.rename(destination)
        fsync_folder(destination.parent)
    except OSError as error:
        raise _not_written(destination, error, "name another folder by --kit") from error
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return kit


def take_back(
    name: str, line: str | None, path: Path, trust: Sequence[Path], runs: Path
) -> tuple[Measurements, Path, int]:
    """Verify a station's file and keep what it measured; returns it, where it is kept, and how many are new.

    Raises:
        BundleRefused: if the file is not what a trusted station signed.
        UsageError: if it was measured for another device, machine or setting, or, given a line, for other pictures.
    """
    device = _away(name)
    found = read_measurements(path, load_trusted(trust))
    if line is not None:
        ground = _ground(name, line, runs)
        frame = Frame(**asdict(ground.picture), classes=ground.classes)
        shapes = {result.frame for result in found.results}
        if frame not in shapes:
            raise UsageError(
                f"{path} was measured for other pictures than those of line {ground.line.name!r}",
                expected=str(frame),
                found="; ".join(sorted(map(str, shapes))),
                fix=f"pack this line's kit: factory measure {device.name} --line {line} --kit DIR",
            )
    try:
        place, fresh = add(device, found)
    except OSError as error:
        raise _not_written(measured_path(device.name), error, "free some space or give write access there") from error
    forget(runs, device.name, found)
    return found, place, fresh


def _not_written(path: Path, error: OSError, fix: str) -> UsageError:
    found = error.strerror or str(error)
    return UsageError(f"cannot write {path}", expected="a place with space that can be written", found=found, fix=fix)


def _away(name: str) -> DeviceProfile:
    device = load_device(name)
    if not is_away(device):
        raise UsageError(
            f"device {device.name!r} is measured on this machine, not at a station",
            expected='measured = "station" in its profile, or a runtime that cannot run here',
            found=f'measured = "{device.measured}", {device.runtime}',
            fix="leave out --kit and --read, or write that line into the profile",
        )
    return device
