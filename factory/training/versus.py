"""Two networks, A and B, on the same images: who decides better, in one sentence, and whether chance could say so."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from factory.training.metrics import Estimate, Labels, escape, overkill
from factory.training.paired import Flags, balanced_share, difference, mcnemar

SURE: Final = 0.05  # the p-value, of each test for itself, below which a difference is called one


@dataclass(frozen=True, slots=True)
class Decided:
    """What one network says of N images.

    `called` is the most probable class, int64 (N,); `rejected` the decision, bool (N,), None on a line without a good
    class, where the class is the decision.
    """

    called: Labels
    rejected: Flags | None


@dataclass(frozen=True)
class Versus:
    """The truth, int64 (N,), the index of the good class or None, and what A and B say.

    With a good class the truth holds at least one good part and one defect; a defect rejected as another is right.
    """

    truth: Labels
    good: int | None
    a: Decided
    b: Decided

    def _right(self, side: Decided) -> Flags:
        if side.rejected is None:
            right: Flags = side.called == self.truth
        else:
            right = side.rejected == (self.truth != self.good)
        return right

    @cached_property
    def right(self) -> tuple[Flags, Flags]:
        """Whether the decision of A, and that of B, is right, (N,) each."""
        return self._right(self.a), self._right(self.b)

    @cached_property
    def differ(self) -> Flags:
        """Where A and B decide otherwise, (N,)."""
        if self.a.rejected is None or self.b.rejected is None:
            apart: Flags = self.a.called != self.b.called
        else:
            apart = self.a.rejected != self.b.rejected
        return apart

    def only(self, side: int, among: Flags | None = None) -> int:
        """Number of images, of all or of those `among`, on which side 0, A, or 1, B, alone is right."""
        alone = self.right[side] & ~self.right[1 - side]
        return int(alone.sum() if among is None else (alone & among).sum())

    def p(self, among: Flags | None = None) -> float:
        """The p-value of McNemar's exact test on the decisions, on all images or on those `among`."""
        first, second = self.right if among is None else (self.right[0][among], self.right[1][among])
        return mcnemar(first, second)

    @property
    def defective(self) -> Flags:
        """Which parts are defective, (N,); of a line with a good class."""
        defective: Flags = self.truth != self.good
        return defective

    def figures(self) -> dict[str, dict[str, Any]]:
        """Balanced accuracy and, with a good class, escape and overkill: of A, of B, and B minus A, with intervals."""
        called = [side.called == self.truth for side in (self.a, self.b)]
        a_share, b_share = (balanced_share(self.truth, right) for right in called)
        found = {"balanced_accuracy": _figure(a_share, b_share, difference(self.truth, *called))}
        if self.good is not None and self.a.rejected is not None and self.b.rejected is not None:
            a, b = self.a.rejected, self.b.rejected
            for name, measure, among, wrong in (
                ("escape", escape, self.defective, (~a, ~b)),
                ("overkill", overkill, ~self.defective, (a, b)),
            ):
                own = np.zeros(int(among.sum()), np.int64)
                apart = difference(own, wrong[0][among], wrong[1][among])
                found[name] = _figure(measure(self.truth, a, self.good), measure(self.truth, b, self.good), apart)
                found[name]["p"] = self.p(among)
        return found

    def as_json(self) -> dict[str, Any]:
        """Counts, figures and the sentence."""
        a, b = self.right
        return {
            "images": len(self.truth),
            "differ": int(self.differ.sum()),
            "both_right": int((a & b).sum()),
            "only_a": self.only(0),
            "only_b": self.only(1),
            "both_wrong": int((~a & ~b).sum()),
            "p": self.p(),
            "figures": self.figures(),
            "sentence": sentence(self),
        }


def _figure(a: Estimate, b: Estimate, apart: Estimate) -> dict[str, Any]:
    return {"a": asdict(a), "b": asdict(b), "difference": asdict(apart)}


def sentence(versus: Versus) -> str:
    """What a user should know, in one sentence."""
    total, differ = len(versus.truth), int(versus.differ.sum())
    found = versus.figures()
    told = _sorted_rightly(versus, found) if versus.good is None else _passed_and_rejected(versus, found)
    if not differ:
        return f"{told}; they decide alike on all {total:,} images: this test set cannot tell them apart."
    return (
        f"{told}; they differ on {differ:,} of {total:,} images, {versus.only(1):,} of them right only with B and "
        f"{versus.only(0):,} only with A (McNemar {_p(versus.p())}): {_verdict(versus)}."
    )


def _count(change: int, total: int) -> str:
    if not change:
        return f"as many of {total:,}"
    return f"{abs(change):,} {'more' if change > 0 else 'fewer'} of {total:,}"


def points(apart: dict[str, float]) -> str:
    """A difference of shares and its interval, in percentage points."""
    value, low, high = (f"{round(100 * apart[key], 1) + 0.0:+.1f}" for key in ("value", "low", "high"))  # no "-0.0"
    return f"{value} points, 95 % {low} to {high}"


def _passed_and_rejected(versus: Versus, found: dict[str, dict[str, Any]]) -> str:
    defects = versus.defective
    passed = versus.only(0, defects) - versus.only(1, defects)
    rejected = versus.only(0, ~defects) - versus.only(1, ~defects)
    return (
        f"B lets {_count(passed, int(defects.sum()))} defects pass ({points(found['escape']['difference'])}) "
        f"and rejects {_count(rejected, int((~defects).sum()))} good parts ({points(found['overkill']['difference'])})"
    )


def _sorted_rightly(versus: Versus, found: dict[str, dict[str, Any]]) -> str:
    gained = versus.only(1) - versus.only(0)
    apart = points(found["balanced_accuracy"]["difference"])
    return f"B sorts {_count(gained, len(versus.truth))} images rightly (balanced accuracy {apart})"


def _verdict(versus: Versus) -> str:
    """What chance would hardly do: defects and good parts are judged each for itself, for one can pay for the other."""
    sides: Sequence[tuple[str, Flags]] = ()
    if versus.good is not None:
        sides = (("lets fewer defects pass", versus.defective), ("rejects fewer good parts", ~versus.defective))
    tested = [(_better(versus, among), claim, versus.p(among)) for claim, among in sides]
    sure = [(name, f"{claim} ({_p(p)})") for name, claim, p in tested if p < SURE]
    if not sure and versus.p() < SURE:
        sure = [(_better(versus), "is right more often")]
    if not sure:
        return "this test set cannot tell them apart"
    if len({name for name, _ in sure}) < len(sure):
        return f"beyond chance, {sure[0][0]} {' and '.join(claim for _, claim in sure)}"
    return f"beyond chance, {' but '.join(f'{name} {claim}' for name, claim in sure)}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _better(versus: Versus, among: Flags | None = None) -> str:
    return "A" if versus.only(0, among) > versus.only(1, among) else "B"
