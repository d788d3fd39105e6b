"""How unlike the training pictures one picture is."""

import math

import numpy as np

from export.runtime.drift.reference import Familiar
from export.runtime.drift.statistics import Statistics


class Novelty:
    """Measures novelty: how far a picture's statistics lie from the nearest of the familiar pictures.

    The distance is the root mean square over the statistics, each in units of its standard deviation over the training
    pictures: about 1 is as far as two pictures of the training lie apart by chance, and a familiar picture lies closer.
    """

    def __init__(self, familiar: Familiar) -> None:
        self._mean = np.array(familiar.mean)
        self._per_unit = 1 / np.array(familiar.scale)
        centres = np.array(familiar.centres)
        self._twice = 2 * centres
        self._squares = np.einsum("ij,ij->i", centres, centres)
        self.limit = familiar.limit

    def of(self, statistics: Statistics) -> float:
        """Return the novelty of a picture by its statistics."""
        place = (statistics.vector - self._mean) * self._per_unit
        nearest = (self._squares - self._twice.dot(place)).min()  # less the square of the place, which all share
        return math.sqrt(max(0.0, float(nearest) + float(place.dot(place))) / place.size)
