"""Which images of a cell are shown as its best, middle and worst."""

import numpy as np

from gpstoken_jax.evaluation.measurement import Measurement

EACH = 3


def choose_examples(measurement: Measurement, metric: str = "psnr") -> dict[int, str]:
    """Position to "best", "middle" or "worst" of the first method, at most three of each.

    Fewer of so few images that they would overlap; none of fewer than three, or without the metric.
    Equal values keep the order of the data set, so the choice does not depend on how the work was
    shared.
    """
    values = np.asarray(next(iter(measurement.metrics.values())).get(metric, ()))
    each = min(EACH, len(values) // 3)
    if not each:
        return {}
    order = np.argsort(-values, kind="stable")
    middle = (len(order) - each) // 2
    chosen = {"best": order[:each], "middle": order[middle : middle + each], "worst": order[-each:]}
    return {measurement.positions[i]: tag for tag, rows in chosen.items() for i in rows}
