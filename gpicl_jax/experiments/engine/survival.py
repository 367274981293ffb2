"""How long a loss plateau lasts, where some runs never leave it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

BELOW_CHANCE = 0.95


def steps_to_leave(records: Sequence[dict[str, Any]], num_labels: int) -> int | None:
    """Returns the step of the first validation with a loss below 95% of that of a guess, ln C, that stays so in all later ones.

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
    """A median and its 95% interval; infinite is beyond the cap."""

    median: float
    low: float
    high: float


def kaplan_meier_median(steps: Sequence[float]) -> Median:
    """Returns the median of times of which some are known to lie beyond one cap alone, the same for all.

    With one cap the estimate of Kaplan and Meier (1958) is the share of runs that have not left, and the median is where it
    first is a half or less. The interval is the exact one between two order statistics (binomial, of 95% at least); fewer than
    six runs give none: 0 to infinity.

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
