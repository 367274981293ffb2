"""Tables and figures of the experiments on Omniglot, from rows and records alone."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from gpicl_jax.build import make_learner
from gpicl_jax.config import load_config
from gpicl_jax.evaluation import Scores
from gpicl_jax.experiments import few_shot
from gpicl_jax.experiments.engine import make_experiment, members
from gpicl_jax.experiments.engine.run import _told as told
from gpicl_jax.experiments.engine.table import Table
from gpicl_jax.learners.maml import Maml
from gpicl_jax.models.mlp import MLP
from gpicl_jax.sections import Config

FEW_SHOT = make_experiment("few-shot", "smoke")


def few_shot_rows(accuracies):
    """Two numbers of inner steps for each seed; the paper's is 3."""
    common = {
        "tasks": "test",
        "learner": "maml",
        "problem": "5way_1shot",
        "last_standard_error": 0.01,
        "episodes": 100,
        "steps": 9,
    }
    return pd.DataFrame(
        [
            common | {"seed": seed, "inner_steps": steps, "last": last - 0.5 * (steps == 1)}
            for seed, last in enumerate(accuracies)
            for steps in (1, 3)
        ]
    )


def test_one_seed_has_the_interval_of_its_problems():
    (row,) = few_shot.headline(few_shot_rows([0.9])).itertuples()
    assert (row.last, row.seeds) == (0.9, 1) and row.interval == pytest.approx(1.96 * 0.01)


def test_several_seeds_have_students_interval_and_the_error_of_their_problems():
    """Three numbers 0.1 apart: 4.303 · 0.1 / √3."""
    (row,) = few_shot.headline(few_shot_rows([0.7, 0.8, 0.9])).itertuples()
    expected = ((4.303 * 0.1 / 3**0.5) ** 2 + (1.96 * 0.01) ** 2) ** 0.5
    assert row.last == pytest.approx(0.8) and row.interval == pytest.approx(expected, rel=1e-3)
    (row,) = few_shot.headline(few_shot_rows([0.8, 0.8, 0.8])).itertuples()
    assert row.interval == pytest.approx(1.96 * 0.01)
    assert "| maml | 5way_1shot | 80.0 ± 24.9 | 98.7 | 9 | 3 × 100 |" in FEW_SHOT.summary(few_shot_rows([0.7, 0.8, 0.9]))


@dataclasses.dataclass(frozen=True)
class Diverging:
    """In place of a member: 2 problems of 40 drawings; at `at` inner steps one of them ends in no finite loss."""

    config: Config
    params: dict
    records: list
    learner: Maml
    at: tuple[int, ...]

    def unseen(self, dataset, length=None):
        loss_TSL = np.full((2, 1, 40), 0.1)
        if (0 if self.params else self.learner.inner_steps) in self.at:  # untrained weights stand for 0 steps
            loss_TSL[1] = np.nan
        return Scores(loss_TSL, np.where(np.arange(40) < 5, np.nan, np.full((2, 1, 40), 0.75)), num_context=5)


MAML = Maml(MLP(num_classes=2), 4, inner_rate=0.3, inner_steps=1)


def test_problems_are_tested_with_the_context_of_their_config():
    """All queries are scored, and nothing else."""
    sizes = ("--data.size=8", "--eval.episodes=8", "--model.width=4", "--model.num_layers=1")
    config = load_config("omniglot/5way_1shot", ("--data.train=digits", *sizes))
    learner = make_learner(config)
    params = jax.jit(learner.init)(jax.random.key(0))
    scores = members.Member(config, params, learner, members.Test(config)).unseen("digits")
    assert scores.num_context == 5 and np.isnan(scores.accuracy_TSL[..., :5]).all()
    assert np.isfinite(scores.accuracy_TSL[..., 5:]).all() and np.isfinite(scores.last()[0])


def table_of(tmp_path, experiment, diverging_at):
    """The rows of one member, by way of the CSV."""
    cell = experiment.cells()[0]
    rows = experiment.score(Diverging(cell.config, {}, [{"validation_loss": 0.5}], MAML, diverging_at))
    table = Table(tmp_path / "table.csv", experiment.axes)
    table.add([(cell, [row | {"steps": 9} for row in rows])])
    return table.frame()


@pytest.mark.parametrize(("at", "told", "shown"), [((10,), "| 75.0 ± 0.0 |", 75.0), ((3, 10), "| diverges |", np.nan)])
def test_a_diverging_inner_loop_of_a_few_shot_problem_is_told_and_is_no_wrong_answer(at, told, shown, tmp_path):
    frame = table_of(tmp_path, FEW_SHOT, at)
    each = "1: 75.0, 3: the inner loop diverges" if 3 in at else "1: 75.0, 3: 75.0, 5: 75.0, 10: the inner loop diverges"
    assert told in FEW_SHOT.summary(frame) and each in FEW_SHOT.summary(frame)
    (axes,) = FEW_SHOT.figure(frame).axes
    (marks,) = axes.containers
    np.testing.assert_array_equal(np.array(marks.lines[0].get_ydata(), float), [shown])


def test_a_diverging_inner_loop_is_named_with_its_rate():
    cell = FEW_SHOT.cells()[0]
    rows = FEW_SHOT.score(Diverging(cell.config, {}, [], MAML, (10,)))
    assert "elsewhere predictions are not finite: the inner loop of maml ran with learner.inner_rate = 2" in told(cell, rows)
    assert "not finite" not in told(cell, rows[:1])


def test_a_seed_whose_inner_loop_diverges_does_not_leave_the_mean():
    rows = few_shot_rows([0.9, 0.8])
    rows.loc[(rows.inner_steps == 3) & (rows.seed == 0), "last"] = None
    assert "| maml | 5way_1shot | diverges | 98.7 | 9 | 2 × 100 |" in FEW_SHOT.summary(rows)


def test_settings_that_look_like_a_number_keep_their_zeros(tmp_path):
    (tmp_path / "table.csv").write_text("learner,problem,seed,settings,last,rows\nmaml,5way_1shot,0,00000012,0.5,1\n")
    assert Table(tmp_path / "table.csv", FEW_SHOT.axes).frame().settings.tolist() == ["00000012"]
