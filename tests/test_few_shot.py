"""Tables and figures of the experiments on Omniglot, from rows and records alone."""

import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pandas as pd
import pytest

from gpicl_jax.build import make_learner
from gpicl_jax.config import changed_settings, load_config, settings_by_name
from gpicl_jax.evaluation import Scores
from gpicl_jax.experiments import few_shot, omniglot_maml
from gpicl_jax.experiments.engine import make_experiment, members
from gpicl_jax.experiments.engine.files import draw_curves
from gpicl_jax.experiments.engine.run import _told as told
from gpicl_jax.experiments.engine.table import Table
from gpicl_jax.learners.maml import Maml
from gpicl_jax.models.mlp import MLP
from gpicl_jax.sections import Config

FEW_SHOT, STUDY = make_experiment("few-shot", "smoke"), make_experiment("omniglot-maml", "smoke")


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
        if self.learner.inner_steps in self.at:
            loss_TSL[1] = np.nan
        return Scores(loss_TSL, np.where(np.arange(40) < 5, np.nan, np.full((2, 1, 40), 0.75)), num_context=5)

    def with_params(self, params):
        return dataclasses.replace(self, learner=dataclasses.replace(self.learner, inner_steps=0))


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


@pytest.mark.parametrize(
    ("at", "told", "shown"),
    [((0,), "| diverges | 0.750 | – |", [np.nan, 0.75]), ((1,), "| 0.750 | diverges | – |", [0.75, np.nan])],
)
def test_a_diverging_inner_loop_of_the_study_is_told(at, told, shown, tmp_path):
    frame = table_of(tmp_path, STUDY, at)
    assert told in STUDY.summary(frame)
    accuracy, gain = STUDY.figure(frame).axes
    np.testing.assert_array_equal(np.array([line.get_xdata()[0] for line in accuracy.lines[:2]], float), shown)
    assert np.isnan(float(gain.containers[0].lines[0].get_xdata()[0]))


def test_inner_losses_that_are_not_finite_are_null_in_the_records():
    losses_MBK = np.full((1, 8, 3), 0.71239)
    losses_MBK[0, 2, 1:] = np.inf, np.nan
    config = load_config("digits_transformer", ("--tasks.length=20",))
    population = types.SimpleNamespace(config=config, learner=None, each=lambda *_: lambda state: (losses_MBK, losses_MBK))
    record = json.loads(json.dumps(STUDY.watch(population)(None), allow_nan=False))
    assert record["inner_loss"][0][2] == [0.7124, None, None] and record["inner_validation_loss"][0][0] == [0.7124] * 3


def test_settings_that_look_like_a_number_keep_their_zeros(tmp_path):
    (tmp_path / "table.csv").write_text("learner,problem,seed,settings,last,rows\nmaml,5way_1shot,0,00000012,0.5,1\n")
    assert Table(tmp_path / "table.csv", FEW_SHOT.axes).frame().settings.tolist() == ["00000012"]


def study_rows(gains, condition="Adam 1e-4", validation_loss=0.1):
    common = {"condition": condition, "loss": 0.7, "episodes": 100, "validation_loss": validation_loss}
    rows = []
    for seed, gain in enumerate(gains):
        rows.append(common | {"seed": seed, "tasks": "before", "last": 0.6})
        rows.append(common | {"seed": seed, "tasks": "after", "last": 0.6 + gain, "gain": gain, "gain_standard_error": 0.02})
    return pd.DataFrame(rows)


def test_a_gain_is_of_the_same_problems_and_has_its_interval():
    (row,) = omniglot_maml.summarise(study_rows([0.1])).itertuples()
    assert row.gain == 0.1 and row.interval == pytest.approx(1.96 * 0.02)
    (row,) = omniglot_maml.summarise(study_rows([0.0, 0.2])).itertuples()
    assert row.gain == pytest.approx(0.1) and row.interval == pytest.approx(
        ((12.706 * 0.2 / 2) ** 2 + (1.96 * 0.02) ** 2) ** 0.5, rel=1e-3
    )
    assert "+0.100" in STUDY.summary(study_rows([0.1]))


def test_validation_problems_decide_the_search():
    """Not the gain on test problems; and conditions outside the search take no part."""
    names = list(omniglot_maml.SEARCH)
    rows = [study_rows([0.3], names[0], 0.4), study_rows([0.1], names[4], 0.3), study_rows([0.2])]
    told = f"Of 2 in the search, '{names[4]}' has the lowest validation loss, 0.300."
    assert told in STUDY.summary(pd.concat(rows, ignore_index=True))


def test_the_studys_plots_come_from_the_metrics_of_its_runs(tmp_path):
    """Of two members, each with its own losses; a run without records, and one that is not in the table, are passed over."""
    run = tmp_path / "runs" / "smoke" / "one"
    run.mkdir(parents=True)
    axes = [{"condition": "Adam 1e-4", "seed": 0, "settings": "0"}, {"condition": "logits", "seed": 0, "settings": "01"}]
    (run / "members.json").write_text(json.dumps({"members": axes}))
    inner = np.linspace(1, 0.5, 2 * 8 * 6).reshape(2, 8, 6).tolist()
    inner[0][3][4:] = [None, None]
    records = [{"step": step, "loss": [0.7, 0.1], "queries_loss": [0.7, None], "seconds": 1.0} for step in range(1, 5)]
    records += [{"step": step, "validation_loss": [0.6, 0.5]} for step in (2, 4)]
    records += [{"step": step, "inner_loss": inner, "inner_validation_loss": inner} for step in (0, 2, 4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    empty, old = (tmp_path / "runs" / "smoke" / name for name in ("two", "three"))
    empty.mkdir()
    (empty / "members.json").write_text(json.dumps({"members": axes}))
    shutil.copytree(run, old)
    (old / "members.json").write_text(json.dumps({"members": [each | {"condition": "SGD 1e-3"} for each in axes]}))
    (tmp_path / "results").mkdir()
    drawn = []

    class Noted(omniglot_maml.OmniglotMaml):
        """What it is given to draw is noted."""

        def curves(self, runs):
            drawn.extend(axes["condition"] for axes, _ in runs)
            return super().curves(runs)

    study = Noted(name="omniglot-maml", scale="smoke")
    draw_curves(study, pd.DataFrame(axes), tmp_path / "runs" / "smoke", tmp_path / "results")
    assert drawn == ["Adam 1e-4", "logits"]
    names = {"meta_loss_study", "meta_loss_changes", "inner_loss", "inner_validation_loss"}
    assert {path.name for path in (tmp_path / "results").iterdir()} == {f"smoke_{name}.png" for name in names}


def test_every_condition_of_the_study_is_one_change_that_a_config_takes():
    cells = dataclasses.replace(make_experiment("omniglot-maml", "laptop"), seeds=1).cells()
    assert len({cell.settings for cell in cells}) == len(omniglot_maml.CONDITIONS) == len(cells)
    configs = {cell.axes["condition"]: cell.config for cell in cells}
    for name, overrides in omniglot_maml.CONDITIONS.items():
        changed = changed_settings(configs["Adam 1e-4"], configs[name]).keys() & settings_by_name(configs[name]).keys()
        assert changed <= {each.removeprefix("--").split("=")[0] for each in overrides}
        assert len(changed) == 1 or name not in omniglot_maml.CHANGES


def test_the_figure_of_the_study_shows_every_seed_and_the_mean_gain_with_its_interval():
    rows = study_rows([0.0, 0.2])
    accuracy, gain = STUDY.figure(rows).axes
    shown = {line.get_label(): list(line.get_xdata()) for line in accuracy.lines[:2]}
    assert shown == {"before meta-training": [0.6, 0.6], "after meta-training": [0.6, 0.8]}
    mean, _, (bar,) = gain.containers[0].lines
    (summary,) = omniglot_maml.summarise(rows).itertuples()
    assert mean.get_xdata() == pytest.approx([0.1])
    assert np.ptp(bar.get_segments()[0][:, 0]) == pytest.approx(2 * summary.interval)
