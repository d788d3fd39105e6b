"""What the service needs of whatever inspects: the ``Inspector`` of a station, or another with its methods."""

from collections.abc import Mapping
from dataclasses import Field
from typing import Any, ClassVar, Protocol


class Answer(Protocol):
    """A dataclass with what is said of a part; every field of it goes into the JSON."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def verdict(self) -> str:
        """One of pass, reject, review, class."""

    @property
    def ms(self) -> float:
        """Milliseconds from the picture to the verdict."""

    @property
    def fault(self) -> str | None:
        """Why the verdict is the safe one, where something failed."""


class Inspects(Protocol):
    """Thread-safe."""

    def inspect(self, picture: bytes, part: str, source: str | None = None) -> Answer:
        """Return the verdict on a picture, logged; the same again for a ``source`` that is logged already."""

    def status(self) -> Mapping[str, object]:
        """Return, fit for JSON: healthy (bool), reason (text or None), bundle, line and since (texts or None).

        Also today (numbers by verdict), drift_alarms and log_failures (numbers since the start).
        """
