"""How unlike the training pictures one picture is."""

import math

import numpy as np

from export.runtime.drift.reference import Familiar
from export.runtime.drift.statistics import Statistics


class Novelty:
    """Measures novelty: the root mean square of a picture's deviations in units of those of the training pictures.

    That is its Mahalanobis distance (P. C. Mahalanobis, 1936) over the square root of the number of statistics: about
    1 for a picture like those of the training.
    """

    def __init__(self, familiar: Familiar) -> None:
        self._mean = np.array(familiar.mean)
        self._whiten = np.array(familiar.whiten)
        self.limit = familiar.limit

    def of(self, statistics: Statistics) -> float:
        """Return the novelty of a picture by its statistics."""
        deviations = self._whiten @ (statistics.vector - self._mean)
        return math.sqrt(float(deviations @ deviations) / deviations.size)
