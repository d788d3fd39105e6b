"""The exponents of the search's default ranking, and where they come from."""

from typing import Final

from factory.score.ranking import PowerLaw

# Of all sets of up to four features this one ranks a line best when it is fitted to the other lines: compute, and a
# map that is nowhere too narrow. SWAP-Score is not among them: in this space it only counts activations.
FEATURES: Final = ("macs", "narrowest")
# Fitted to 132 networks of three lines by `python -m tests.benchmarks calibration`; a test holds them together.
CALIBRATED: Final = PowerLaw((("macs", 1.202), ("narrowest", 0.203)))
