"""The scikit-learn classifier: what scikit-learn asks of one, the symmetries of its learner, and what it refuses."""

import dataclasses
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpicl_jax import estimator
from gpicl_jax.build import make_learner
from gpicl_jax.config import load_config
from gpicl_jax.estimator import InContextClassifier
from gpicl_jax.learners import fixed_context
from gpicl_jax.models.equivariant_transformer import EquivariantTransformer, WithoutLabelPermutations, WithoutRotations
from gpicl_jax.runs.export import write_export
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.episode import Episode

TOLERANCE = {"rtol": 0, "atol": 1e-9}


@parametrize_with_checks([InContextClassifier()])
def test_scikit_learn_finds_no_fault(estimator, check):
    check(estimator)


def blobs(num_rows=60, num_features=6, num_classes=4, seed=0):
    return make_blobs(num_rows, num_features, centers=num_classes, cluster_std=3.0, random_state=seed)


def proba(x_NF, y_N, x_QF, **settings):
    return InContextClassifier(**settings).fit(x_NF, y_N).predict_proba(x_QF)


def test_orders_of_rows_and_names_of_classes_change_nothing():
    x_NF, y_N = blobs()
    before_QC = proba(x_NF[:40], y_N[:40], x_NF[40:])
    order_N = np.random.default_rng(1).permutation(40)
    np.testing.assert_allclose(proba(x_NF[order_N], y_N[order_N], x_NF[40:]), before_QC, **TOLERANCE)
    permutation_C = np.array([2, 0, 3, 1])
    named = np.array(["d", "a", "c", "b"])
    after_QC = proba(x_NF[:40], permutation_C[y_N[:40]], x_NF[40:])
    np.testing.assert_allclose(after_QC[:, permutation_C], before_QC, **TOLERANCE)
    np.testing.assert_allclose(proba(x_NF[:40], named[y_N[:40]], x_NF[40:])[:, [3, 0, 2, 1]], before_QC, **TOLERANCE)
    x_NF[0] += 3.0
    assert np.abs(proba(x_NF[:40], y_N[:40], x_NF[40:]) - before_QC).max() > 1e-3


def test_rotations_of_standardised_features_and_scales_and_equal_features_change_nothing():
    x_NF, y_N = blobs()
    white_FF = np.linalg.inv(np.linalg.cholesky(np.cov(x_NF[:40].T, ddof=0))).T  # rotations then leave the deviations
    x_NF = (x_NF - x_NF[:40].mean(axis=0)) @ white_FF
    before_QC = proba(x_NF[:40], y_N[:40], x_NF[40:])
    rotation_FF, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 6)))
    changed = {
        "rotation": x_NF @ rotation_FF,
        "units": (x_NF + 7.0) * np.geomspace(1e-12, 1e12, 6),
        "equal features": np.concatenate([x_NF, np.full((60, 40), 0.1)], axis=1),
        "large": x_NF * 1e300,
    }
    for name, other_NF in changed.items():
        np.testing.assert_allclose(proba(other_NF[:40], y_N[:40], other_NF[40:]), before_QC, atol=1e-7, err_msg=name)
    assert np.abs(proba(x_NF[:40] @ white_FF @ rotation_FF, y_N[:40], x_NF[40:]) - before_QC).max() > 1e-3


@pytest.mark.parametrize("kind", [EquivariantTransformer, WithoutRotations, WithoutLabelPermutations])
def test_an_encoded_context_answers_as_the_whole_episode_does_whatever_its_padding(kind):
    x_LX, y_L = blobs(30, 5, 3)
    with jax.enable_x64(True):
        model = kind(num_classes=3, width=8, num_layers=2, num_heads=2, head_size=4, dtype="float64")
        leaves, structure = jax.tree.flatten(jax.eval_shape(model.init, jax.random.key(0), x_LX, y_L, 20)["params"])
        random = np.random.default_rng(0)
        params = jax.tree.unflatten(structure, [random.standard_normal(leaf.shape) for leaf in leaves])
        whole_LC = jax.jit(model.apply)({"params": params}, x_LX, y_L, 20)
        x_NX, y_N = np.pad(x_LX[:20], ((0, 7), (0, 0))), np.pad(y_L[:20], (0, 7))
        answer_QC = jax.jit(model.answer)(params, jax.jit(model.encode)(params, x_NX, y_N, 20), x_LX[20:])
    np.testing.assert_allclose(answer_QC, whole_LC[20:], rtol=0, atol=1e-12)
    assert np.ptp(whole_LC[20:], axis=1).min() > 1e-2


def test_it_predicts_as_the_learner_does_whatever_the_batches():
    x_NF, y_N = blobs(50, 6, 4)
    fitted = InContextClassifier().fit(x_NF[:37], y_N[:37])
    run = estimator.open_run("default")
    learner = dataclasses.replace(run.learner, model=run.learner.model.clone(num_classes=4))
    z_NF = (x_NF - x_NF[:37].mean(axis=0)) / x_NF[:37].std(axis=0)
    episode = Episode(jnp.float32(z_NF), jnp.int32(y_N), jnp.int32(37))
    logits_LC = learner.predict(run.params, episode, key=jax.random.key(0))
    np.testing.assert_allclose(fitted.predict_log_proba(x_NF[37:]), jax.nn.log_softmax(logits_LC[37:]), atol=1e-4)
    for batch_size in (1, 5, 1000):
        other_QC = fitted.set_params(batch_size=batch_size).predict_proba(x_NF[37:])
        np.testing.assert_allclose(other_QC, np.exp(jax.nn.log_softmax(logits_LC[37:])), atol=1e-4)
    alone_QC = np.concatenate([fitted.predict_proba(x_NF[row : row + 1]) for row in range(37, 50)])
    np.testing.assert_allclose(alone_QC, other_QC, **TOLERANCE)


def test_few_programs_serve_all_sizes():
    x_NF, y_N = blobs(200, 40, 3)
    for function in (fixed_context._encode, fixed_context._answer):
        function.clear_cache()
    for size in (*range(10, 64, 9), 65, 100, 120):
        InContextClassifier().fit(x_NF[:size, :size], y_N[:size]).predict(x_NF[: 2 * size - 15, :size])
    assert fixed_context._encode._cache_size() <= 5  # 32, 64 and 128 rows; 32 and 64 features
    assert fixed_context._answer._cache_size() <= 9


def test_frames_pipelines_and_searches():
    frame, species = load_iris(return_X_y=True, as_frame=True)
    named = species.map({0: "setosa", 1: "versicolor", 2: "virginica"})
    fitted = InContextClassifier().fit(frame[::3], named[::3])
    assert fitted.feature_names_in_.tolist() == list(frame.columns) and fitted.n_features_in_ == 4
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert fitted.score(frame[1::3], named[1::3]) > 0.85
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(frame[frame.columns[::-1]])
    holes = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.1)
    assert cross_val_score(make_pipeline(SimpleImputer(), InContextClassifier()), holes, named, cv=3).mean() > 0.7
    search = GridSearchCV(InContextClassifier(), {"batch_size": [32, 64]}, cv=2).fit(frame, named)
    assert search.best_score_ > 0.85
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.predict_proba(frame), fitted.predict_proba(frame))
    assert not hasattr(clone(fitted), "classes_")


def exported(folder, *overrides):
    """Random parameters as a file, of a small causal Transformer or what `overrides` name."""
    sizes = () if "--model.name=lstm" in overrides else ("--model.num_layers=1",)
    small = ("--model.width=8", "--data.size=4", "--tasks.length=40")
    config = load_config("digits_transformer", (*small, *sizes, *overrides))
    leaves, structure = jax.tree.flatten(jax.eval_shape(make_learner(config).init, jax.random.key(0)))
    random = np.random.default_rng(0)
    leaves = [0.3 * random.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    write_export(folder / "weights.npz", jax.tree.unflatten(structure, leaves), config, {})
    return folder / "weights.npz"


OF_FIXED_SIZE = {
    "causal": (),
    "recurrent": ("--model.name=lstm",),
    "context and queries": ("--model.name=context_query", "--learner.name=context_query"),
    "without rotations": ("--model.name=equivariant_without_rotations", "--learner.name=context_query"),
    "without label permutations": ("--model.name=equivariant_without_label_permutations", "--learner.name=context_query"),
    "without context permutations": ("--model.name=equivariant_without_context_permutations", "--learner.name=context_query"),
}


@pytest.mark.parametrize("name", OF_FIXED_SIZE)
def test_a_learner_without_all_symmetries_gets_projections_labels_and_orders_at_random(name, tmp_path):
    weights = exported(tmp_path, *OF_FIXED_SIZE[name])
    x_NF, y_N = blobs(50, 6, 4)
    several = InContextClassifier(weights, n_ensemble=3, random_state=1).fit(x_NF[:35], y_N[:35])
    found_QC = several.predict_proba(x_NF[35:])
    assert found_QC.shape == (15, 4) and np.allclose(found_QC.sum(axis=1), 1)
    np.testing.assert_array_equal(several.fit(x_NF[:35], y_N[:35]).predict_proba(x_NF[35:]), found_QC)
    other_QC = proba(x_NF[:35], y_N[:35], x_NF[35:], weights=weights, n_ensemble=3, random_state=2)
    assert np.abs(other_QC - found_QC).max() > 1e-5
    alone_QC = np.concatenate([several.predict_proba(x_NF[row : row + 1]) for row in range(35, 50)])
    np.testing.assert_allclose(alone_QC, found_QC, atol=1e-5)


X, Y = blobs(20, 3, 2)
HOLE = np.where(np.arange(60).reshape(20, 3) == 4, np.nan, X)
REFUSED = {
    "NaN": (lambda _: InContextClassifier().fit(HOLE, Y), "X has 1 NaN or inf, the first in row 1 and column 1; fill"),
    "inf": (lambda _: InContextClassifier().fit(X, Y).predict(np.full((1, 3), np.inf)), "X has 3 NaN or inf"),
    "one class": (lambda _: InContextClassifier().fit(X, np.zeros(20)), "y has one class"),
    "before fit": (lambda _: InContextClassifier().predict(X), "not fitted"),
    "other features": (lambda _: InContextClassifier().fit(X, Y).predict(X[:, :2]), "X has 2 features, but"),
    "text": (lambda _: InContextClassifier().fit(pd.DataFrame({"a": ["red", "blue"] * 10}), Y), "X has text ('red'); make"),
    "numbers as labels": (lambda _: InContextClassifier().fit(X, X[:, 0]), "Unknown label type: continuous"),
    "no ensemble": (lambda _: InContextClassifier(n_ensemble=2).fit(X, Y), "nothing to average"),
    "ensemble of none": (lambda _: InContextClassifier(n_ensemble=0).fit(X, Y), "n_ensemble = 0; expected"),
    "half a batch": (lambda _: InContextClassifier(batch_size=0.5).fit(X, Y), "batch_size = 0.5; expected"),
    "device": (lambda _: InContextClassifier(device="tpux").fit(X, Y), "device = 'tpux'"),
    "weights of nothing": (lambda _: InContextClassifier("none.npz").fit(X, Y), "no file or folder none.npz"),
    "weights that are none": (lambda _: InContextClassifier(weights=3).fit(X, Y), "weights = 3; expected"),
    "classes": (lambda folder: InContextClassifier(exported(folder)).fit(np.eye(11), range(11)), "y has 11 classes, but these"),
    "positions": (
        lambda folder: InContextClassifier(exported(folder)).fit(*blobs(40)),
        "give at most 39, or weights='default'",
    ),
    "features as they are": (
        lambda folder: InContextClassifier(exported(folder, "--tasks.entries=identity")).fit(X, Y),
        "X has 3 features, but these weights take 16 as they are",
    ),
    "gradient steps": (
        lambda folder: InContextClassifier(exported(folder, "--learner.name=sgd", "--model.name=mlp")).fit(X, Y),
        "are of sgd, which does not learn in one pass",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_line(name, tmp_path):
    attempt, message = REFUSED[name]
    with pytest.raises(NotFittedError if name == "before fit" else ValueError, match=re.escape(message)) as error:
        attempt(tmp_path)
    assert "\n" not in str(error.value)


def test_more_rows_than_memory_allows_are_refused_before_they_are_tried(monkeypatch):
    monkeypatch.setattr(estimator, "device_memory", lambda device: (10**6, "a device"))
    with pytest.raises(
        UserError, match=r"fit got 100 rows, which need 0.0021 GB for attention, but a device has 0.001 GB; give at"
    ):
        InContextClassifier().fit(*blobs(100))
    InContextClassifier().fit(*blobs(64))
