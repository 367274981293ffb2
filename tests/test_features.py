"""Features of a frozen network: an .npz takes the place of images, from `load` to the experiment."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from gpicl_jax.build import make_tasks
from gpicl_jax.config import load_config
from gpicl_jax.experiments.engine import make_experiment
from gpicl_jax.experiments.engine.run import Asked, run_experiment
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.sources.images import load
from tests.helpers import TINY_SETTINGS

ROWS, X = 400, 6


def features(**changes):
    """Three classes that lie apart."""
    rng = np.random.default_rng(0)
    labels_N = np.arange(ROWS) % 3
    features_NX = rng.normal(size=(ROWS, X)) + 4 * np.eye(3, X)[labels_N]
    return {"features": features_NX.astype(np.float32), "labels": labels_N} | changes


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "mine.npz", **features())
    return str(tmp_path / "mine.npz")


def test_rows_are_standardised_squashed_and_rounded_to_bytes(path):
    """tanh of each row, standardised by itself, in 256 levels; the three parts hold every row once."""
    whole = [load(path, split) for split in ("train", "validation", "test")]
    given = features()["features"]
    standardised = (given - given.mean(axis=1, keepdims=True)) / given.std(axis=1, keepdims=True)
    expected = np.round(255 * (np.tanh(standardised) + 1) / 2)
    found = np.concatenate([np.asarray(each.images_NX, float) for each in whole])
    np.testing.assert_array_equal(*(rows[np.lexsort(rows.T)] for rows in (found, expected)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.full((ROWS, X), np.nan, np.float32)}, "are not all finite"),
        ({"features": np.ones((ROWS, X), np.int32)}, r"are int32 \(400, 6\); expected .* floats \[N, X\]"),
        ({"features": np.ones(ROWS, np.float32)}, r"are float32 \(400,\); expected .* floats \[N, X\]"),
        ({"features": np.ones((ROWS, 1), np.float32)}, r"are \(400, 1\); expected floats \[N, X\] with X above 1"),
        ({"labels": np.zeros(ROWS, np.int64)}, "one class only"),
    ],
)
def test_features_that_do_not_fit_are_refused(tmp_path, changes, message):
    np.savez(tmp_path / "bad.npz", **features(**changes))
    with pytest.raises(UserError, match=message):
        load(str(tmp_path / "bad.npz"), "train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((), "holds rows of 6 features, not images; give --data.features=6"),
        (("--data.features=7",), "has 6 numbers an example, but data.features = 7"),
    ],
)
def test_the_number_of_features_is_said(path, settings, message):
    config = load_config("digits_transformer", (f"--data.train={path}", "--tasks.classes_per_task=3", *settings))
    with pytest.raises(UserError, match=message):
        make_tasks(config, "train")


def test_the_experiment_trains_on_the_first_file_and_tests_on_all(path, tmp_path):
    np.savez(tmp_path / "other.npz", **features(labels=np.arange(ROWS) % 3))
    overrides = (*TINY_SETTINGS, "--tasks.classes_per_task=3", "--train.steps=10")
    experiment = dataclasses.replace(make_experiment("features", "smoke"), overrides=overrides)
    asked = Asked(tmp_path / "runs", tmp_path / "results")
    assert run_experiment(experiment.with_options(datasets=(path, str(tmp_path / "other.npz"))), asked) == 0
    frame = pd.read_csv(tmp_path / "results" / "smoke.csv")
    assert frame.dataset.tolist() == ["mine.npz", "other.npz"] and frame["last"].between(0, 1).all()
    with pytest.raises(UserError, match=r"needs --datasets TRAIN\.npz"):
        run_experiment(experiment, asked)
