"""Mean relative accuracy of a number: how many of ten tolerances it meets (VSI-Bench)."""

import numpy as np

_CONFIDENCE = np.arange(50, 100, 5, dtype=np.float32) / np.float32(100)


def mean_relative_accuracy(answer: float, truth: float) -> float:
    """Share of the confidences 0.50, 0.55 ... 0.95 for which |error| / |truth| < 1 - confidence.

    In float32, as the official script counts. An answer that is not finite meets none.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        found, wanted = np.float32(answer), np.float32(truth)
        error = np.abs(found - wanted) / (np.abs(wanted) + np.float32(1e-8))
        return float(np.mean(error < 1 - _CONFIDENCE))
