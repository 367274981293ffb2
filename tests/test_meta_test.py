import json

import numpy as np
import pandas as pd

from gpicl_jax.config import Config
from gpicl_jax.evaluation import Scores, learning_curve
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.training.meta_test import MetaTest, table, write_report


def test_report_without_seen_tasks_and_a_table_that_shows_what_was_measured(tmp_path):
    accuracy_TSL = np.tile(np.linspace(0.1, 0.8, 20), (4, 2, 1)) + np.array([-0.1, 0.1, -0.1, 0.1])[:, None, None]
    ours = Scores(np.ones_like(accuracy_TSL), accuracy_TSL)
    sparse = accuracy_TSL.copy()
    sparse[:, :, 0] = np.nan
    kinds = ("unseen_tasks", "unseen_tasks_train_images", "identity_tasks")
    scores = {(kind, "transformer"): ours for kind in kinds}
    scores["unseen_tasks", "1-NN"] = Scores(sparse, sparse)
    common = {"dataset": "digits", "distinct_images": 17, "seed": 0}
    curves = [learning_curve(each, tasks=kind, solver=solver, **common) for (kind, solver), each in scores.items()]
    result = MetaTest("transformer", 10, scores, pd.concat(curves), 17, settings={"1-NN": {"k": 1}})
    folder = RunFolder.create(tmp_path / "run", Config())
    write_report(folder, result, {"w": np.zeros((3, 4))}, step=7, checkpoint="best", total_seconds=None)
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary["seen_tasks"] is None and summary["num_params"] == 12 and summary["distinct_images"] == 17
    assert summary["checkpoint"] == "best" and summary["reference_solvers"]["1-NN"]["k"] == 1
    np.testing.assert_allclose(summary["unseen_tasks"]["last"], accuracy_TSL[:, :, 18:].mean())
    np.testing.assert_allclose(summary["unseen_tasks"]["first"], 0.1)
    lines = {line.split()[0]: line for line in table(result).splitlines()}
    assert lines["0"].split()[1:] == ["0.100", "±", "0.058", "–"]
    assert "last 2" in lines["last"] and lines["last"].count(f"{accuracy_TSL[:, :, 18:].mean():.3f}") == 2
