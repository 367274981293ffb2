"""How long a loss plateau lasts, where some runs never leave it."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

BELOW_CHANCE = 0.95


def steps_to_leave(records: Sequence[dict[str, Any]], num_labels: int) -> int | None:
    """The step of the first validation whose loss is below 95% of that of a guess, ln C, and stays so in all later ones.

    None where there is none: such a run is right-censored at its last step. Labels must be permuted in validation: then
    nothing but the examples of an episode can bring the loss below ln C.

    Args:
      records: of training, with `step` and, where it was measured, `validation_loss` (nats).
      num_labels: C.

    Example:
      >>> losses = [2.3, 2.1, 2.31, 2.0, 1.5]
      >>> steps_to_leave([{"step": 10 * at, "validation_loss": loss} for at, loss in enumerate(losses)], 10)
      30
    """
    left = None
    for record in records:
        if (loss := record.get("validation_loss")) is None:
            continue
        if loss >= BELOW_CHANCE * math.log(num_labels):
            left = None
        elif left is None:
            left = record["step"]
    return left


class Median(NamedTuple):
    """A median and its 95% interval; infinite where too few left."""

    median: float
    low: float
    high: float


def kaplan_meier_median(steps: Sequence[float], cap: float) -> Median:
    """The median of times of which some are known to be above `cap` alone (Kaplan and Meier 1958).

    The interval holds the times at which the survival curve's own 95% interval (log-log) contains a half (Brookmeyer and
    Crowley 1982).

    Args:
      steps: one for each run, NaN where it did not leave.
      cap: the last step of all runs.

    Example:
      >>> kaplan_meier_median([10, 20, 30, float("nan"), float("nan")], cap=100).median
      30.0
    """
    times = np.asarray(steps, float)
    left = times[~np.isnan(times)]
    if len(left) == 0:
        return Median(math.inf, cap, math.inf)
    estimate = stats.ecdf(stats.CensoredData(uncensored=left, right=np.full(len(times) - len(left), cap))).sf
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # undefined before the first and after the last that left: no bound there
        interval = estimate.confidence_interval(method="log-log")
    curves = (estimate.probabilities, interval.low.probabilities, interval.high.probabilities)
    median, low, high = (_half(estimate.quantiles, curve) for curve in curves)
    return Median(median, low, high)


def _half(times: np.ndarray, survival: np.ndarray) -> float:
    """The first time at which no more than a half survive."""
    below = np.flatnonzero(np.nan_to_num(survival, nan=1.0) <= 0.5)
    return float(times[below[0]]) if len(below) else math.inf
