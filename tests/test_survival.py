"""Steps to leave the plateau: the definition, and the median of runs of which some never leave."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpicl_jax.experiments.engine import make_experiment
from gpicl_jax.experiments.engine.files import found
from gpicl_jax.experiments.engine.survival import kaplan_meier_median, steps_to_leave

CHANCE = math.log(10)


def records(*losses):
    """A training record between any two validations, as in `metrics.jsonl`."""
    return [
        record
        for at, loss in enumerate(losses, 1)
        for record in ({"step": 10 * at, "loss": 0.1}, {"step": 10 * at, "validation_loss": loss})
    ]


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ((2.3, 2.3, 2.3), None),
        ((2.3, 2.0, 1.9), 20),
        ((2.0, 2.3, 1.9), 30),  # it fell back: it had not left
        ((2.3, 2.0, 2.3), None),
        ((2.3, None, 1.9), 30),  # not finite there
        ((0.951 * CHANCE, 0.949 * CHANCE), 20),
        ((), None),
    ],
)
def test_the_plateau_is_left_where_the_loss_falls_below_chance_for_good(losses, step):
    assert steps_to_leave(records(*losses), 10) == step


def test_the_loss_of_training_does_not_count():
    assert steps_to_leave([{"step": 10, "loss": 0.1}], 10) is None


def test_without_censoring_the_median_is_the_median():
    assert kaplan_meier_median([70, 10, 50, 30, 90, 60, 20]) == (50, 10, 90)


def test_runs_that_stay_move_the_median_as_kaplan_and_meier_say():
    """By SciPy's estimate of the survival curve, for every number of runs that stay."""
    times = np.array([10, 20, 30, 40, 50, 60, 70, 80])
    for stay in range(8):
        left, cap = times[: 8 - stay], 100
        curve = stats.ecdf(stats.CensoredData(uncensored=left, right=np.full(stay, cap))).sf
        below = curve.quantiles[(curve.probabilities <= 0.5) & (curve.quantiles < cap)]
        expected = below[0] if len(below) else math.inf
        assert kaplan_meier_median([*left, *[np.nan] * stay]).median == expected
    assert kaplan_meier_median([np.nan] * 8) == (math.inf, math.inf, math.inf)


def test_few_runs_have_no_interval():
    assert kaplan_meier_median([10, 20, 30, 40, 50]) == (30, 0, math.inf)
    assert kaplan_meier_median([10, 20, 30, 40, 50, np.nan]) == (30, 10, math.inf)


def test_the_interval_covers_the_true_median():
    """95 of 100 or more: times of an exponential law with median 1, censored at 2."""
    rng = np.random.default_rng(0)
    covered = 0
    for times in rng.exponential(1 / math.log(2), (400, 30)):
        median = kaplan_meier_median(np.where(times < 2, times, np.nan))
        covered += median.low <= 1 <= median.high
    assert 372 <= covered <= 396


def test_a_member_that_diverges_is_a_run_that_did_not_leave(tmp_path):
    rows = {"kind": "paper", "condition": "none", "seconds": 1.0, "steps": 100, "num_params": 9.0}
    left, gone = {"left_plateau": 20, "last": 0.5}, {"diverged": 40}
    frame = pd.DataFrame([rows | {"seed": seed} | each for seed, each in enumerate((left, gone, gone))])
    told = found(make_experiment("plateau", "smoke"), frame, tmp_path)
    assert "| none | 1 of 3 | > 100 (0 – > 100) | 0.500 | 9 | 10.0 |" in told
    assert told.endswith("diverged: kind paper, condition none, seed 1; kind paper, condition none, seed 2")
