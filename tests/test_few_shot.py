"""Tables and figures of the experiments on Omniglot, from rows and records alone."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from gpicl_jax.experiments import few_shot, omniglot_maml
from gpicl_jax.experiments.run import draw_curves


def few_shot_rows(accuracies):
    """Two numbers of inner steps for each seed; the paper's is 3."""
    common = {"learner": "maml", "problem": "5way_1shot", "last_standard_error": 0.01, "episodes": 100, "steps": 9}
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
    assert "| maml | 5way_1shot | 80.0 ± 24.9 | 98.7 | 9 | 3 × 100 |" in few_shot.summary(few_shot_rows([0.7, 0.8, 0.9]))


def test_an_inner_loop_that_diverges_is_told_and_is_no_wrong_answer():
    rows = few_shot_rows([0.9, 0.8])
    rows.loc[(rows.inner_steps == 1) & (rows.seed == 0), "last"] = None
    assert "- maml, 5way_1shot: 1: the inner loop diverges, 3: 85.0" in few_shot.summary(rows)
    rows = study_rows([0.1], validation_loss=None)
    rows.loc[rows.tasks == "before", ["last", "loss"]] = rows.loc[rows.tasks == "after", "gain"] = None
    assert "| Adam 1e-4 | diverges | 0.700 | – | diverges | 0.700 |" in omniglot_maml.summary(rows)
    omniglot_maml.draw(rows, "laptop")


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
    assert "+0.100" in omniglot_maml.summary(study_rows([0.1]))


def test_validation_problems_decide_the_search():
    """Not the gain on test problems; and conditions outside the search take no part."""
    names = list(omniglot_maml.SEARCH)
    rows = [study_rows([0.3], names[0], 0.4), study_rows([0.1], names[4], 0.3), study_rows([0.2])]
    told = f"Of 2 in the search, '{names[4]}' has the lowest validation loss, 0.300."
    assert told in omniglot_maml.summary(pd.concat(rows, ignore_index=True))


def test_the_studys_plots_come_from_the_metrics_of_its_runs(tmp_path):
    """Of two members, each with its own losses; a run without records, and one that is not in the table, are passed over."""
    run = tmp_path / "runs" / "smoke" / "one"
    run.mkdir(parents=True)
    axes = [{"condition": "Adam 1e-4", "seed": 0, "settings": "0"}, {"condition": "logits", "seed": 0, "settings": "01"}]
    (run / "members.json").write_text(json.dumps({"members": axes}))
    inner = np.linspace(1, 0.5, 2 * 8 * 6).reshape(2, 8, 6).tolist()
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

    def curves(runs):
        drawn.extend(axes["condition"] for axes, _ in runs)
        return omniglot_maml.curves(runs)

    experiment = dataclasses.replace(omniglot_maml.EXPERIMENT, curves=curves)
    draw_curves(experiment, "smoke", pd.DataFrame(axes), tmp_path / "runs", tmp_path / "results")
    assert drawn == ["Adam 1e-4", "logits"]
    names = {"meta_loss_study", "meta_loss_changes", "inner_loss", "inner_validation_loss"}
    assert {path.name for path in (tmp_path / "results").iterdir()} == {f"smoke_{name}.png" for name in names}


def test_every_condition_of_the_study_is_one_change_that_a_config_takes():
    cells = omniglot_maml.cells(omniglot_maml.EXPERIMENT.scales["laptop"].grid, 1)
    assert len({cell.settings for cell in cells}) == len(omniglot_maml.CONDITIONS) == len(cells)
    assert isinstance(omniglot_maml.draw(study_rows([0.1]), "smoke"), Figure)
