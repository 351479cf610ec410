"""Mean relative accuracy of a number: how many of ten tolerances it meets.

VSI-Bench defines it; the copy of Video-R1 and Video-MTR differs at errors of exactly 5 %, 10 % ...
"""

import numpy as np

_CONFIDENCE = np.arange(50, 100, 5, dtype=np.float32) / np.float32(100)


def mean_relative_accuracy(answer: float, truth: float) -> float:
    """Share of the confidences 0.50, 0.55 ... 0.95 for which |error| / |truth| < 1 - confidence.

    In float32, as the scripts of Video-R1 and Video-MTR count. An answer that is not finite meets
    none.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        found, wanted = np.float32(answer), np.float32(truth)
        error = np.abs(found - wanted) / (np.abs(wanted) + np.float32(1e-8))
        return float(np.mean(error < 1 - _CONFIDENCE))


def vsibench_accuracy(answer: float, truth: float) -> float:
    """VSI-Bench's own: |error| / truth <= 1 - confidence, in float64.

    Raises:
        ZeroDivisionError: the truth is 0.
    """
    levels = np.linspace(0.5, 0.95, 10)
    return float(np.mean(abs(answer - truth) / truth <= 1 - levels))
