"""Line and device profiles: TOML in, frozen checked models out; every refusal names file, key and allowed range."""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from export.runtime.engine_builder import EngineOptions, as_engine_runtime
from export.runtime.errors import UsageError
from export.runtime.manifest import Fallback, Hardware, is_batch_profile
from factory.refusal import explain
from factory.swapout.schedule import Noise, Per, Schedule

NAME: Final = r"^[a-z0-9][a-z0-9-]*$"
SHIPPED: Final = next(
    (folder for folder in (Path(__file__).parent / "shipped_profiles",) if folder.is_dir()),
    Path(__file__).parent.parent / "profiles",
)

Kind = Literal["basic", "bottle", "mb"]
Depth = Literal[1, 2, 3, 4]
Width = Literal[8, 16, 24, 32, 48, 64, 96, 128, 192, 256]
Kernel = Literal[3, 5]
StemStride = Literal[1, 2, 4]
Precision = Literal["fp32", "fp16", "int8"]

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Keep = Annotated[float, Field(ge=0.05, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Images(_Table):
    """Where the pictures are. A relative root is taken from the folder of the profile."""

    root: str
    layout: Literal["folders", "csv"] = "folders"
    csv: str = "labels.csv"
    split: tuple[Share, Share, Share] = (0.6, 0.2, 0.2)
    split_seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _sums_to_one(self) -> "Images":
        if abs(sum(self.split) - 1) > 1e-6 or min(self.split) <= 0:
            raise ValueError("train, val and test shares must each be above 0 and sum to 1")
        return self


class Classes(_Table):
    """Labels in output order. `merge` renames raw labels of the images; `drop` leaves raw labels out."""

    labels: tuple[str, ...] = Field(min_length=2)
    good: str | None = None
    merge: dict[str, str] = {}
    drop: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Classes":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        if self.good is not None and self.good not in self.labels:
            raise ValueError(f"good must be one of labels {list(self.labels)}")
        unknown = sorted(set(self.merge.values()) - set(self.labels))
        if unknown:
            raise ValueError(f"merge leads to {unknown}, which are not in labels {list(self.labels)}")
        both = sorted(set(self.merge) & set(self.drop))
        if both:
            raise ValueError(f"{both} stand in merge and in drop: choose one")
        return self


class InputSize(_Table):
    """What the network sees, in pixels; every picture is stretched to it."""

    height: int = Field(ge=16, le=1024)
    width: int = Field(ge=16, le=1024)
    channels: Literal[1, 3]


class BudgetLimits(_Table):
    """Hard limits of one frame at the station: median latency, and size of the ONNX file in 10^6 bytes.

    `rhythm_ms` is how often the line sends a part: between two the processor idles, and the next frame takes longer.
    """

    device: str = Field(pattern=NAME)
    latency_ms: float = Field(gt=0, le=10_000)
    size_mb: float = Field(gt=0, le=1_000)
    rhythm_ms: float = Field(100, gt=0, le=60_000)


class SpaceLimits(_Table):
    """What the search may build with: kinds of block, depth, width and kernel of a stage, stride of the stem.

    A list that is left out allows everything; one that is given is kept in the order of the whole alphabet.
    """

    kinds: tuple[Kind, ...] = get_args(Kind)
    depths: tuple[Depth, ...] = get_args(Depth)
    widths: tuple[Width, ...] = get_args(Width)
    kernels: tuple[Kernel, ...] = get_args(Kernel)
    stem_strides: tuple[StemStride, ...] = get_args(StemStride)

    @field_validator("*")
    @classmethod
    def _in_order(cls, values: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        alphabet = cls.model_fields[str(info.field_name)].default
        if not values:
            raise ValueError(f"the list is empty; choose from {list(alphabet)}, or leave it out to allow them all")
        return tuple(value for value in alphabet if value in values)


class SearchSettings(_Table):
    """The training-free search. `score` is the ranking: calibrated on trained networks, or as published."""

    score: Literal["calibrated", "paper"] = "calibrated"
    candidates: int = Field(600, ge=20, le=1_000_000)
    population: int = Field(60, ge=10, le=10_000)
    repeats: int = Field(2, ge=1, le=32)
    shortlist: int = Field(4, ge=1, le=32)
    workers: int = Field(2, ge=1, le=256)
    seed: int = Field(0, ge=0)


class Augmentation(_Table):
    """Only what leaves the label true. Shares of the picture's side, degrees, shares of full brightness."""

    flip_horizontal: bool = False
    flip_vertical: bool = False
    quarter_turns: bool = False
    shift: float = Field(0.04, ge=0, le=0.5)
    rotation_degrees: float = Field(0.0, ge=0, le=180)
    brightness: float = Field(0.1, ge=0, le=0.5)
    contrast: float = Field(0.1, ge=0, le=0.9)
    noise: float = Field(0.02, ge=0, le=0.5)


class ScheduleSettings(_Table):
    """Keep probability over depth in exactly one form.

    `constant` for all residual blocks, `linear` from the first to the last, one for each of the `stages` that have a
    residual block, or one for each of the `blocks`.
    """

    constant: Keep | None = None
    linear: tuple[Keep, Keep] | None = None
    stages: tuple[Keep, ...] | None = None
    blocks: tuple[Keep, ...] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "ScheduleSettings":
        if len(self.model_fields_set) != 1:
            forms, found = list(ScheduleSettings.model_fields), sorted(self.model_fields_set)
            raise ValueError(f"give exactly one of {forms}, found {found}")
        return self

    @property
    def schedule(self) -> Schedule:
        """The schedule itself."""
        if self.constant is not None:
            return Schedule.constant(self.constant)
        if self.linear is not None:
            return Schedule.linear(*self.linear)
        if self.stages is not None:
            return Schedule.per_stage(self.stages)
        return Schedule.per_block(self.blocks or ())


class SwapoutSettings(_Table):
    """Noise of the full training: its method, keep probabilities of the stream X and the branch F(X), granularity.

    A schedule that is left out falls linearly from 1 to 0.5; with `swapout` a branch that is left out has the
    stream's. `dropout` and `skip-forward` have the stream's schedule alone, `stochastic-depth` the branch's alone.
    One draw decides a unit, or, of stochastic depth, the layer, unless `per` says otherwise.
    """

    method: Literal["plain", "dropout", "stochastic-depth", "skip-forward", "swapout"] = "swapout"
    stream: ScheduleSettings | None = None
    branch: ScheduleSettings | None = None
    per: Per | None = None

    @model_validator(mode="after")
    def _fits_the_method(self) -> "SwapoutSettings":
        used = {
            "plain": set[str](),
            "dropout": {"stream", "per"},
            "skip-forward": {"stream", "per"},
            "stochastic-depth": {"branch", "per"},
            "swapout": {"stream", "branch", "per"},
        }[self.method]
        extra = sorted(self.model_fields_set - used - {"method"})
        if extra:
            raise ValueError(f"{self.method} has no {' or '.join(extra)}: leave it out")
        _ = self.noise
        return self

    @property
    def noise(self) -> Noise:
        """The noise that a network is built with."""
        usual = Schedule.linear(1.0, 0.5)
        stream = usual if self.stream is None else self.stream.schedule
        branch = None if self.branch is None else self.branch.schedule
        match self.method:
            case "plain":
                return Noise.plain()
            case "dropout":
                return Noise.dropout(stream, self.per or "unit")
            case "skip-forward":
                return Noise.skip_forward(stream, self.per or "unit")
            case "stochastic-depth":
                return Noise.stochastic_depth(branch or usual, self.per or "layer")
            case "swapout":
                return Noise.swapout(stream, branch, self.per or "unit")


NO_NOISE: Final = SwapoutSettings(method="plain")


class TeacherSettings(_Table):
    """Whom the chosen network learns from beside the labels.

    `kind` is a pretrained network (lite0, lite1, lite2) fine-tuned for `epochs` at `side` pixels, the Swapout network's
    own samples, the networks of the shortlist together, or a torch.export file (.pt2) beside the profile.
    """

    kind: str = Field("lite0", pattern=r"^(lite[012]|samples|shortlist|.+\.pt2)$")
    epochs: int = Field(8, ge=1, le=1_000)
    side: int | None = Field(None, ge=32, le=1_024)


class TrainingSettings(_Table):
    """The short training of the shortlist and the full training of the chosen network.

    `averaging` is the decay a step of the averaged weights and `patience` the evaluations without a lower validation
    loss that end the full training, both off at 0; `parts` is into how many micro-batches a batch is split.
    """

    epochs: int = Field(60, ge=1, le=10_000)
    short_epochs: int = Field(8, ge=1, le=10_000)
    batch: int = Field(64, ge=2, le=65_536)
    learning_rate: float = Field(0.05, gt=0, le=10)
    weight_decay: float = Field(5e-4, ge=0, le=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    class_weights: bool = True
    averaging: float = Field(0.0, ge=0, lt=1)
    patience: int = Field(0, ge=0, le=10_000)
    parts: int = Field(1, ge=1, le=1_024)
    seed: int = Field(0, ge=0)
    swapout: SwapoutSettings = SwapoutSettings()
    teacher: TeacherSettings | None = None
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _samples_need_noise(self) -> "TrainingSettings":
        if self.teacher is not None and self.teacher.kind == "samples" and self.swapout.noise.silent:
            raise ValueError("teacher.kind = 'samples' needs noise in training.swapout: all samples would be the same")
        return self


class AcceptanceLimits(_Table):
    """`escape_max` sets the operating threshold on validation; all limits are then judged on the test images."""

    escape_max: float | None = Field(None, gt=0, lt=1)
    overkill_max: float | None = Field(None, gt=0, lt=1)
    balanced_accuracy_min: float | None = Field(None, gt=0, lt=1)


class ExportSettings(_Table):
    """Devices beside the budget's own whose engines go into the bundle."""

    also_for: tuple[Annotated[str, Field(pattern=NAME)], ...] = ()


class LineProfile(_Table):
    """One product line."""

    name: str = Field(pattern=NAME)
    images: Images
    classes: Classes
    input: InputSize
    budget: BudgetLimits
    space: SpaceLimits = SpaceLimits()
    search: SearchSettings = SearchSettings()
    training: TrainingSettings = TrainingSettings()
    acceptance: AcceptanceLimits = AcceptanceLimits()
    export: ExportSettings = ExportSettings()

    @model_validator(mode="after")
    def _limits_fit_the_classes(self) -> "LineProfile":
        limits = self.acceptance
        if self.classes.good is None and (limits.escape_max or limits.overkill_max):
            raise ValueError("acceptance.escape_max and overkill_max need classes.good")
        if self.search.population > self.search.candidates:
            raise ValueError("search.population must not exceed search.candidates")
        return self


class DeviceProfile(_Table):
    """One kind of station.

    `precisions` are those tried; what is delivered passes the gate and is the fastest. An engine takes `batch` frames
    at once (least, which is 1, best, most). TensorRT-RTX builds for `compute_capabilities`, or one portable engine;
    TensorRT builds for the GPU at hand, `hardware` and `version_compatible` make it run on more. `measured` says where
    latencies are measured: on this machine, which then is such a station, or at the station. `taught_by` names devices
    that were measured before, or can be measured here: with what their latencies teach, half as many networks are
    measured on this one.
    """

    name: str = Field(pattern=NAME)
    description: str
    runtime: Literal["onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"]
    precisions: tuple[Precision, ...] = ("fp32",)
    threads: int = Field(1, ge=1, le=256)
    fallback: Fallback | None = None
    batch: tuple[int, int, int] = (1, 1, 16)
    compute_capabilities: tuple[str, ...] = ()
    hardware: Hardware = "this-gpu"
    version_compatible: bool = False
    measured: Literal["here", "station"] = "here"
    taught_by: tuple[Annotated[str, Field(pattern=NAME)], ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "DeviceProfile":
        if self.runtime == "onnxruntime-cuda" and "int8" in self.precisions:
            raise ValueError(
                "precisions: onnxruntime-cuda has no int8 convolutions and would compute in float: use fp16"
            )
        if not is_batch_profile(self.batch) or self.batch[0] != 1:  # a station's golden pictures come one by one
            raise ValueError("batch must be 1, the best and the most frames at once, such as [1, 1, 16]")
        if self.fallback == self.runtime:
            raise ValueError("fallback must be another runtime than the device's own: leave it out")
        if self.compute_capabilities and self.runtime != "tensorrt-rtx":
            raise ValueError("compute_capabilities are of the runtime tensorrt-rtx: leave them out")
        if (self.version_compatible or self.hardware != "this-gpu") and self.runtime != "tensorrt":
            raise ValueError("version_compatible and hardware are of the runtime tensorrt: leave them out")
        return self

    @property
    def engine(self) -> EngineOptions:
        """What an engine for this kind of station is built for.

        Raises:
            UsageError: if its runtime runs the ONNX model itself.
        """
        return EngineOptions(
            runtime=as_engine_runtime(self.runtime),
            batch=self.batch,
            capabilities=self.compute_capabilities,
            hardware=self.hardware,
            version_compatible=self.version_compatible,
        )

    @field_validator("precisions")
    @classmethod
    def _with_float32(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if "fp32" not in values or len(set(values)) != len(values):
            raise ValueError("fp32 must stand there, and each once: it is what the others are judged by")
        return values


Profile = TypeVar("Profile", LineProfile, DeviceProfile)


def _read(path: Path, model: type[Profile]) -> Profile:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}", fix="correct that line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    if "name" in table:
        raise UsageError(f"{path}: name: unknown key; a profile is named by its file, {path.stem!r}")
    try:  # through JSON: strict about types, but a TOML array may fill a tuple
        return model.model_validate_json(json.dumps(table | {"name": path.stem}, default=str))
    except ValidationError as error:
        lines = [explain(detail, model) for detail in error.errors()]
        raise UsageError(f"{path} is not a valid profile:\n  " + "\n  ".join(lines)) from None


def available(kind: Literal["lines", "devices"]) -> dict[str, Path]:
    """Profiles by name: those of `profiles/` in the working folder, over those that came with the tool."""
    folders = (SHIPPED / kind, Path("profiles") / kind)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


_NEW: Final = {
    "lines": "`factory init NAME --images DIR` writes a new line profile",
    "devices": "write profiles/devices/NAME.toml, like those that are there",
}


def find_profile(name: str, kind: Literal["lines", "devices"]) -> Path:
    """The file of a profile, by name under profiles/ or by path.

    Raises:
        UsageError: naming what there is.
    """
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise UsageError(f"no profile at {name}", fix="check the path, or give a name under profiles/")
        return Path(name)
    known = available(kind)
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(
        f"no {kind[:-1]} profile named {name!r}",
        expected=f"one of {', '.join(sorted(known)) or '(none)'}, or a path to a .toml file",
        found=repr(name),
        fix=hint + _NEW[kind],
    )


def load_line(name: str) -> tuple[LineProfile, Path]:
    """Return a line profile and its images' root folder, by name under profiles/lines or by path to a TOML file.

    Raises:
        UsageError: naming the file, the key and what is allowed.
    """
    path = find_profile(name, "lines")
    line = _read(path, LineProfile)
    teacher = line.training.teacher
    if teacher is not None and teacher.kind.endswith(".pt2"):
        program = (path.parent / teacher.kind).resolve()
        if not program.is_file():  # told now, since it is opened only behind the other trainings
            raise UsageError(f"{path}: training.teacher.kind: no file {program}", fix="put it there or name it rightly")
        beside = teacher.model_copy(update={"kind": str(program)})
        line = line.model_copy(update={"training": line.training.model_copy(update={"teacher": beside})})
    return line, (path.parent / line.images.root).resolve()


def load_device(name: str) -> DeviceProfile:
    """Return a device profile by name.

    Raises:
        UsageError: naming the file, the key and what is allowed.
    """
    return _read(find_profile(name, "devices"), DeviceProfile)


def engine_device(name: str) -> DeviceProfile:
    """Return the profile of a device beside the budget's own, for which an engine is built.

    Raises:
        UsageError: as `load_device`, and if the device runs the ONNX model itself.
    """
    device = load_device(name)
    _ = device.engine
    return device
