"""Numbers in words: means over seeds, their intervals, tables in Markdown."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from scipy import stats


def markdown(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table.

    Example:
      >>> print(markdown(["tasks", "accuracy"], [["seen", 0.5]]))
      | tasks | accuracy |
      |---|---|
      | seen | 0.5 |
    """
    lines = [f"| {' | '.join(map(str, row))} |" for row in (names, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(names), *lines[1:]])


def student(values: pd.Series) -> float:
    """Returns the half-width of Student's 95% interval of a mean over seeds: 0 for one seed, NaN if a seed has no value."""
    seeds = len(values)
    return stats.t.ppf(0.975, seeds - 1) * values.std(ddof=1, skipna=False) / seeds**0.5 if seeds > 1 else 0.0


def half_width(values: pd.Series, errors: pd.Series) -> float:
    """Returns the half-width of a 95% interval of a mean over seeds that covers other seeds and other test problems.

    The seeds share their test problems, so their spread does not contain all of the problems' error. The half-width is the root
    of the sum of two squares: Student's half-width over seeds, and 1.96 standard errors over problems. For one seed the second
    counts alone. NaN where a seed has no value.

    Args:
      values: one for each seed.
      errors: their standard errors over problems.

    Example:
      >>> round(half_width(pd.Series([0.7, 0.8, 0.9]), pd.Series([0.05] * 3)), 3)
      0.267
    """
    return math.hypot(student(values), 1.96 * errors.mean(skipna=False))


def mean_and_deviation(values: pd.Series) -> str:
    """Returns mean ± standard deviation over seeds, or the value of one seed.

    Example:
      >>> mean_and_deviation(pd.Series([0.7, 0.8, 0.9])), mean_and_deviation(pd.Series([0.7]))
      ('0.800 ± 0.100', '0.700')
    """
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")
