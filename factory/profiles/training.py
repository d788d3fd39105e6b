"""How a line's networks are trained: the tables below `[training]`."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from factory.profiles.table import Table
from factory.swapout.schedule import Noise, Per, Schedule

Keep = Annotated[float, Field(ge=0.05, le=1)]


class Augmentation(Table):
    """Only what leaves the label true. Shares of the picture's side, degrees, shares of full brightness."""

    flip_horizontal: bool = False
    flip_vertical: bool = False
    quarter_turns: bool = False
    shift: float = Field(0.04, ge=0, le=0.5)
    rotation_degrees: float = Field(0.0, ge=0, le=180)
    brightness: float = Field(0.1, ge=0, le=0.5)
    contrast: float = Field(0.1, ge=0, le=0.9)
    noise: float = Field(0.02, ge=0, le=0.5)


class ScheduleSettings(Table):
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


class SwapoutSettings(Table):
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


class TeacherSettings(Table):
    """Whom the chosen network learns from beside the labels.

    `kind` is a pretrained network (lite0, lite1, lite2) fine-tuned for `epochs` at `side` pixels, the Swapout network's
    own samples, the networks of the shortlist together, or a torch.export file (.pt2) beside the profile.
    """

    kind: str = Field("lite0", pattern=r"^(lite[012]|samples|shortlist|.+\.pt2)$")
    epochs: int = Field(8, ge=1, le=1_000)
    side: int | None = Field(None, ge=32, le=1_024)


class TrainingSettings(Table):
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
