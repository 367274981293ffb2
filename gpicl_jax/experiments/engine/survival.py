"""How long a loss plateau lasts, where some runs never leave it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

BELOW_CHANCE = 0.95


def steps_to_leave(records: Sequence[dict[str, Any]], num_labels: int) -> int | None:
    """Returns the step of the first validation whose loss, and all later ones, are below 95% of ln C, the loss of a guess.

    It is None for a run that never gets there, which is right-censored at its last step. Labels must be permuted in validation:
    then only the examples of an episode can bring the loss below ln C.

    Args:
      records: records of training, with `step` and, where it was measured, `validation_loss` (nats).
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
    """A median and its 95% interval. Infinite means beyond the cap."""

    median: float
    low: float
    high: float


def kaplan_meier_median(steps: Sequence[float]) -> Median:
    """Returns the median of times, some of which are only known to be beyond a cap that is the same for all.

    With one cap, the estimate of Kaplan and Meier (1958) is the share of runs that have not left, and the median is the first
    time at which the share is a half or less. The interval is exact, between two order statistics (binomial, at least 95%).
    Fewer than six runs give no interval: 0 to infinity.

    Args:
      steps: one for each run, NaN where it did not leave.

    Example:
      >>> kaplan_meier_median([10, 20, 30, float("nan"), float("nan"), float("nan")])
      Median(median=30.0, low=10.0, high=inf)
    """
    times = np.sort(np.nan_to_num(np.asarray(steps, float), nan=math.inf))
    runs = len(times)
    rank = int(stats.binom.ppf(0.025, runs, 0.5))
    low, high = (float(times[rank - 1]), float(times[runs - rank])) if rank else (0.0, math.inf)
    return Median(float(times[(runs - 1) // 2]), low, high)
