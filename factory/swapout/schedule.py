"""Which noise a residual network is trained with: the masks' method and granularity, keep probabilities over depth.

Y = T1 * X + T2 * F(X) (Singh, Hoiem, Forsyth, NIPS 2016, section 3). Every method is a choice of E[T1], E[T2] and of
how the two masks hang together; the named constructors of `Noise` are the special cases of the paper's section 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

Form = Literal["constant", "linear", "stages", "blocks"]
Method = Literal["plain", "dropout", "stochastic-depth", "skip-forward", "feed-forward", "swapout"]
Per = Literal["unit", "channel", "layer", "sample"]
Coupling = Literal["independent", "same", "opposite"]

LENGTHS: Final = {"constant": 1, "linear": 2}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Keep probability over depth; made by `constant`, `linear`, `per_stage` or `per_block`.

    Raises:
        ValueError: if a value lies outside [0, 1], or their number does not fit the form.
    """

    form: Form
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        wanted = LENGTHS.get(self.form, len(self.values))
        if len(self.values) != wanted:
            raise ValueError(f"a {self.form} schedule: expected {wanted} values, found {len(self.values)}")
        for value in self.values:
            if not 0 <= value <= 1:
                raise ValueError(f"a keep probability must lie in [0, 1], found {value}")

    @classmethod
    def constant(cls, value: float) -> "Schedule":
        """One probability for every block."""
        return cls("constant", (value,))

    @classmethod
    def linear(cls, first: float, last: float) -> "Schedule":
        """From `first` at the first residual block to `last` at the last (paper, section 4); one block takes `last`."""
        return cls("linear", (first, last))

    @classmethod
    def per_stage(cls, values: Sequence[float]) -> "Schedule":
        """One probability for each stage that has a residual block."""
        return cls("stages", tuple(values))

    @classmethod
    def per_block(cls, values: Sequence[float]) -> "Schedule":
        """One probability for each residual block."""
        return cls("blocks", tuple(values))

    @property
    def opposite(self) -> "Schedule":
        """One minus this schedule."""
        return Schedule(self.form, tuple(1 - value for value in self.values))

    def resolve(self, stages: Sequence[int]) -> tuple[float, ...]:
        """The probability of each residual block, given the stage index of each, in order.

        Raises:
            ValueError: if a list does not have one value for each stage or block.
        """
        blocks = len(stages)
        match self.form:
            case "constant":
                return self.values * blocks
            case "linear":
                first, last = self.values
                if blocks == 1:
                    return (last,)
                return tuple(first + (last - first) * block / (blocks - 1) for block in range(blocks))
            case "stages":
                order = sorted(set(stages))
                self._fits(len(order), "stages with a residual block")
                return tuple(self.values[order.index(stage)] for stage in stages)
            case "blocks":
                self._fits(blocks, "residual blocks")
                return self.values

    def _fits(self, wanted: int, of: str) -> None:
        if len(self.values) != wanted:
            raise ValueError(
                f"Swapout probabilities for {wanted} {of}: expected {wanted} values, found {len(self.values)}"
            )


ALWAYS: Final = Schedule.constant(1.0)
NEVER: Final = Schedule.constant(0.0)


@dataclass(frozen=True, slots=True)
class Noise:
    """Masks T1 on the stream and T2 on the branch of every residual block; made by one of the named constructors.

    `per` is what one draw decides: every unit of every example, every channel of every example, a whole example, or
    the layer for the whole batch.

    Raises:
        ValueError: if the schedules contradict the method, such as dropout with two different ones.
    """

    method: Method
    stream: Schedule
    branch: Schedule
    per: Per = "unit"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method) or self.per not in get_args(Per):
            raise ValueError(f"unknown method {self.method!r} or granularity {self.per!r}")
        wanted = {
            "plain": (ALWAYS, ALWAYS),
            "feed-forward": (NEVER, ALWAYS),
            "dropout": (self.stream, self.stream),
            "stochastic-depth": (ALWAYS, self.branch),
            "skip-forward": (self.stream, self.stream.opposite),
            "swapout": (self.stream, self.branch),
        }[self.method]
        if (self.stream, self.branch) != wanted:
            raise ValueError(f"{self.method}: expected stream {wanted[0]} and branch {wanted[1]}, found {self}")
        if self.method == "stochastic-depth" and self.per not in {"layer", "sample"}:
            raise ValueError(f"stochastic-depth: expected one draw per 'layer' or 'sample', found {self.per!r}")

    @classmethod
    def plain(cls) -> "Noise":
        """The residual network itself: T1 = T2 = 1."""
        return cls("plain", ALWAYS, ALWAYS)

    @classmethod
    def feed_forward(cls) -> "Noise":
        """No skip: T1 = 0, T2 = 1."""
        return cls("feed-forward", NEVER, ALWAYS)

    @classmethod
    def dropout(cls, keep: Schedule, per: Per = "unit") -> "Noise":
        """Dropout of the block's output: one mask T1 = T2 on X + F(X), not inverted."""
        return cls("dropout", keep, keep, per)

    @classmethod
    def stochastic_depth(cls, survival: Schedule, per: Per = "layer") -> "Noise":
        """T1 = 1, T2 one scalar a layer for the whole batch (Huang et al. 2016, section 3), or one for each example."""
        return cls("stochastic-depth", ALWAYS, survival, per)

    @classmethod
    def skip_forward(cls, stream: Schedule, per: Per = "unit") -> "Noise":
        """Either X or F(X): T2 = 1 - T1."""
        return cls("skip-forward", stream, stream.opposite, per)

    @classmethod
    def swapout(cls, stream: Schedule, branch: Schedule | None = None, per: Per = "unit") -> "Noise":
        """Independent masks; without `branch` both have the stream's probabilities."""
        return cls("swapout", stream, stream if branch is None else branch, per)

    @property
    def coupling(self) -> Coupling:
        """How the two masks hang together."""
        match self.method:
            case "dropout":
                return "same"
            case "skip-forward":
                return "opposite"
            case _:
                return "independent"

    @property
    def silent(self) -> bool:
        """Whether nothing is ever dropped."""
        return all(value == 1 for value in (*self.stream.values, *self.branch.values))

    def probabilities(self, stages: Sequence[int]) -> tuple[tuple[float, float], ...]:
        """(p1, p2) of each residual block, given the stage index of each, in order.

        Raises:
            ValueError: if a list does not have one value for each stage or block.
        """
        return tuple(zip(self.stream.resolve(stages), self.branch.resolve(stages), strict=True))
