"""What other devices taught, used for a new one: their latencies are further terms of its law.

Devices of a kind differ by how much each operation costs, far less by what matters. So the latency of a new device is
sought as a non-negative combination of those of others, of its own features, or of both. Which of the three is decided
by the errors on those of the new device's measurements that were left out, so others are used only where they help.
(Other devices' latencies as features: Lee et al., "HELP: hardware-adaptive efficient latency prediction for NAS via
meta-learning", NeurIPS 2021, whose reference networks this replaces by a convex fit.)
"""

from collections.abc import Sequence

import numpy as np

from factory.cost.latency import Floats, LatencyModel, Law, fit_law, terms_of
from factory.spaces.plan import Plan


def fit_transfer(own: Floats, others: Floats, measured_ms: Floats) -> Law:
    """The best of three laws by the mean error of networks left out; the first of equals in the order below.

    The law's terms are the columns of `own`, then those of `others`.

    Args:
        own: features of the measured networks, float64 (N, F); the first is 1 everywhere, a device's cost of a frame.
        others: latencies of the same networks on D other devices, measured or predicted, float64 (N, D), in ms.
        measured_ms: latencies on this device, float64 (N,).

    Raises:
        ValueError: as `fit_law`.
    """
    terms = np.column_stack([own, others])
    if others.shape[1] == 0:
        return fit_law(terms, measured_ms)
    features, devices = range(own.shape[1]), range(own.shape[1], terms.shape[1])
    choices = (features, (0, *devices), (*features, *devices))
    laws = [fit_law(terms, measured_ms, columns) for columns in choices]
    return min(laws, key=lambda law: law.mean_error)


def fit_latency(plans: Sequence[Plan], measured_ms: Sequence[float], teachers: Sequence[Law] = ()) -> LatencyModel:
    """The model of a device from its measured networks and from laws of other devices over the same features.

    Raises:
        ValueError: as `fit_law`.
    """
    terms = terms_of(plans, teachers)
    known = terms.shape[1] - len(teachers)
    return LatencyModel(fit_transfer(terms[:, :known], terms[:, known:], np.array(measured_ms)), tuple(teachers))
