"""The exponents of the search's default ranking, and where they come from."""

from typing import Final

from factory.score.ranking import PowerLaw

# Fitted by `python -m tests.benchmarks calibration` (see its README).
CALIBRATED: Final = PowerLaw((("macs", 1.0),))
