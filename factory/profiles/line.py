"""The profile of a product line."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from export.runtime.errors import UsageError
from factory.profiles.table import NAME, Name, Table
from factory.profiles.training import TrainingSettings

Kind = Literal["basic", "bottle", "mb"]
Depth = Literal[1, 2, 3, 4]
Width = Literal[8, 16, 24, 32, 48, 64, 96, 128, 192, 256]
Kernel = Literal[3, 5]
StemStride = Literal[1, 2, 4]

Share = Annotated[float, Field(ge=0, le=1)]


class Images(Table):
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


class Classes(Table):
    """Labels in output order. `merge` renames raw labels of the images; `drop` leaves raw labels out."""

    labels: tuple[str, ...] = Field(min_length=2)
    good: str | None = None
    merge: dict[str, str] = Field(default_factory=dict)
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


class InputSize(Table):
    """What the network sees, in pixels; every picture is stretched to it."""

    height: int = Field(ge=16, le=1024)
    width: int = Field(ge=16, le=1024)
    channels: Literal[1, 3]


class BudgetLimits(Table):
    """Hard limits of one frame at the station: median latency, and size of the ONNX file in 10^6 bytes.

    `rhythm_ms` is how often the line sends a part: between two the processor idles, and the next frame takes longer.
    """

    device: str = Field(pattern=NAME)
    latency_ms: float = Field(gt=0, le=10_000)
    size_mb: float = Field(gt=0, le=1_000)
    rhythm_ms: float = Field(100, gt=0, le=60_000)


class SpaceLimits(Table):
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


class SearchSettings(Table):
    """The training-free search. `score` is the ranking: calibrated on trained networks, or as published.

    On a line with several kinds of station `one_network` gives all of them the same network.
    """

    score: Literal["calibrated", "paper"] = "calibrated"
    candidates: int = Field(600, ge=20, le=1_000_000)
    population: int = Field(60, ge=10, le=10_000)
    repeats: int = Field(2, ge=1, le=32)
    shortlist: int = Field(4, ge=1, le=32)
    one_network: bool = False
    workers: int = Field(2, ge=1, le=256)
    seed: int = Field(0, ge=0)


class AcceptanceLimits(Table):
    """`escape_max` sets the operating threshold on validation; all limits are then judged on the test images."""

    escape_max: float | None = Field(None, gt=0, lt=1)
    overkill_max: float | None = Field(None, gt=0, lt=1)
    balanced_accuracy_min: float | None = Field(None, gt=0, lt=1)


class InspectionSettings(Table):
    """What a station sends to a person, in shares of the validation pictures.

    `review_share` are those whose score lies nearest to the threshold, `novelty_share` those least like the training.
    """

    review_share: float = Field(0.02, ge=0, le=0.5)
    novelty_share: float = Field(0.005, gt=0, le=0.5)


class ExportSettings(Table):
    """Devices beside the budget's own whose engines go into the bundle."""

    also_for: tuple[Name, ...] = ()


class LineProfile(Table):
    """One product line: its images, the kind of station that `budget` is of, and further kinds (`stations`)."""

    name: str = Field(pattern=NAME)
    images: Images
    classes: Classes
    input: InputSize
    budget: BudgetLimits
    stations: tuple[BudgetLimits, ...] = ()
    space: SpaceLimits = SpaceLimits()
    search: SearchSettings = SearchSettings()
    training: TrainingSettings = TrainingSettings()
    acceptance: AcceptanceLimits = AcceptanceLimits()
    inspection: InspectionSettings = InspectionSettings()
    export: ExportSettings = ExportSettings()

    @model_validator(mode="after")
    def _consistent(self) -> "LineProfile":
        limits = self.acceptance
        if self.classes.good is None and (limits.escape_max or limits.overkill_max):
            raise ValueError("acceptance.escape_max and overkill_max need classes.good")
        if self.search.population > self.search.candidates:
            raise ValueError("search.population must not exceed search.candidates")
        if len(set(self.devices)) != len(self.devices):
            raise ValueError("budget and stations must be of different devices")
        if self.search.one_network and not self.stations:
            raise ValueError("search.one_network is for a line with several [[stations]]: leave it out")
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        """The kinds of station, that of the budget first."""
        return tuple(limits.device for limits in (self.budget, *self.stations))

    def at(self, device: str) -> "LineProfile":
        """The same line with that kind of station first.

        Raises:
            UsageError: if the line has no such kind.
        """
        kinds = (self.budget, *self.stations)
        own = next((limits for limits in kinds if limits.device == device), None)
        if own is None:
            raise UsageError(
                f"line {self.name!r} has no station of that kind",
                expected=" or ".join(self.devices),
                found=device,
                fix="name one of these by --device, or write its budget into the profile as [[stations]]",
            )
        others = tuple(limits for limits in kinds if limits is not own)
        return self.model_copy(update={"budget": own, "stations": others})
