"""The symmetries of the equivariant Transformer, in float32 and in float64; and that the tests see one that is broken."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.build import make_learner
from gpicl_jax.config import load_config
from gpicl_jax.learners import base
from gpicl_jax.models.equivariant_transformer import (
    EquivariantTransformer,
    WithoutContextPermutations,
    WithoutLabelPermutations,
    WithoutRotations,
)
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.episode import Episode
from gpicl_jax.training.population import Population
from gpicl_jax.training.trainer import Trainer

L, X, C, N = 24, 12, 5, 17
SIZES = {"width": 16, "num_layers": 3, "num_heads": 4, "head_size": 4}
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture(params=TOLERANCE)
def precision(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@functools.cache
def random_params(dtype, kind):
    """Weights, biases and gates that are all random, of the size of those of training."""
    x_LX, y_L = jnp.zeros((L, X), "float32"), jnp.zeros(L, "int32")
    leaves, structure = jax.tree.flatten(jax.jit(kind(num_classes=C, **SIZES).init)(jax.random.key(0), x_LX, y_L, N))
    rng = np.random.default_rng(1)
    noisy = [np.asarray(leaf + 0.05 * rng.standard_normal(leaf.shape), dtype) for leaf in leaves]
    return jax.tree.unflatten(structure, noisy)


def episode(dtype, seed=0):
    """Five classes that overlap."""
    rng = np.random.default_rng(seed)
    y_L = rng.permutation(np.arange(L) % C)
    x_LX = 1.5 * rng.standard_normal((C, X))[y_L] + rng.standard_normal((L, X))
    return x_LX.astype(dtype), y_L.astype(np.int32)


@functools.cache
def predictor(num_classes, dtype, kind=EquivariantTransformer):
    model = kind(num_classes=num_classes, dtype=jnp.dtype(dtype), **SIZES)
    return jax.jit(model.apply)


def logits(dtype, x_LX, y_L, n=N, num_classes=C, kind=EquivariantTransformer):
    found = predictor(num_classes, dtype, kind)(random_params(dtype, kind), jnp.asarray(x_LX), jnp.asarray(y_L), n)
    assert found.dtype == dtype and np.isfinite(found).all()
    return np.asarray(found)


def rotation(dtype, size=X, seed=2):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0].astype(dtype)


def reflected(x_LX):
    return x_LX * np.where(np.arange(X) == 0, -1, 1).astype(x_LX.dtype)


CHANGES_OF_X = {
    "rotation": lambda x_LX: x_LX @ rotation(x_LX.dtype),
    "reflection": reflected,
    "more dimensions": lambda x_LX: np.pad(x_LX, ((0, 0), (0, 40 - X))) @ rotation(x_LX.dtype, 40),
    "times 1000": lambda x_LX: x_LX * x_LX.dtype.type(1e3),
    "divided by 1000": lambda x_LX: x_LX * x_LX.dtype.type(1e-3),
    "as large as numbers are": lambda x_LX: x_LX * x_LX.dtype.type(1e30),
    "as small as numbers are": lambda x_LX: x_LX * x_LX.dtype.type(1e-30),
}


@pytest.mark.parametrize("change", CHANGES_OF_X)
def test_rotations_and_scalings_of_the_inputs_change_nothing(change, precision):
    x_LX, y_L = episode(precision)
    before_LC = logits(precision, x_LX, y_L)
    np.testing.assert_allclose(logits(precision, CHANGES_OF_X[change](x_LX), y_L), before_LC, atol=TOLERANCE[precision])
    assert np.ptp(before_LC[N:], axis=1).min() > 1e-2  # there is something to change
    other_LX = x_LX.copy()
    other_LX[0] *= 2  # no symmetry
    assert np.abs(logits(precision, other_LX, y_L) - before_LC).max() > 1e-3


PERMUTATIONS = {"two classes": [1, 0, 2, 3, 4], "a cycle": [1, 2, 3, 4, 0], "all backwards": [4, 3, 2, 1, 0]}


@pytest.mark.parametrize("permutation", PERMUTATIONS)
@pytest.mark.parametrize("shown", [5, 3])
def test_a_permutation_of_the_labels_permutes_the_logits(permutation, shown, precision):
    """Also where nobody shows classes 3 and 4; these are then equal."""
    permutation_C = np.array(PERMUTATIONS[permutation])
    x_LX, y_L = episode(precision)
    y_L %= shown
    before_LC = logits(precision, x_LX, y_L)
    after_LC = logits(precision, x_LX, permutation_C[y_L].astype(np.int32))
    np.testing.assert_allclose(after_LC[:, permutation_C], before_LC, atol=TOLERANCE[precision])
    assert np.abs(after_LC - before_LC).max() > 1e-2
    if shown == 3:
        np.testing.assert_allclose(before_LC[:, 3], before_LC[:, 4], atol=TOLERANCE[precision])


def test_the_order_of_the_context_changes_no_query(precision):
    x_LX, y_L = episode(precision)
    order_L = np.concatenate([np.random.default_rng(3).permutation(N), np.arange(N, L)])
    before_LC, after_LC = logits(precision, x_LX, y_L), logits(precision, x_LX[order_L], y_L[order_L])
    np.testing.assert_allclose(after_LC, before_LC[order_L], atol=TOLERANCE[precision])


def test_a_query_is_predicted_alone_as_among_others(precision, kind=EquivariantTransformer):
    """Whatever the others are, and whatever stands at their labels; one that is not finite has no prediction."""
    x_LX, y_L = episode(precision)
    among_LC = logits(precision, x_LX, y_L)
    for query in range(N, L):
        rows = [*range(N), query]
        alone_LC = logits(precision, x_LX[rows], y_L[rows])
        np.testing.assert_allclose(alone_LC[-1], among_LC[query], atol=TOLERANCE[precision])
    for wild in (1e6, 1e15, 1e38, np.inf, np.nan):
        wild_LX, wild_L = x_LX.copy(), y_L.copy()
        wild_LX[N + 1 :] = wild
        wild_L[N:] = 0
        found_LC = np.asarray(predictor(C, precision, kind)(random_params(precision, kind), wild_LX, wild_L, N))
        np.testing.assert_array_equal(found_LC[: N + 1], among_LC[: N + 1])
        assert np.isfinite(found_LC[N + 1 :]).all() == np.isfinite(wild)


@pytest.mark.parametrize("num_classes", [4, 6, 9])
def test_weights_serve_another_number_of_classes(num_classes, precision):
    """Those that nobody shows have equal logits."""
    x_LX, y_L = episode(precision)
    y_L %= 4
    found_LC = logits(precision, x_LX, y_L, num_classes=num_classes)
    assert found_LC.shape == (L, num_classes) and np.ptp(found_LC[N:, :4], axis=1).min() > 1e-2
    shown = min(4, num_classes - 1)  # of four classes the last has something to be unlike
    np.testing.assert_allclose(found_LC[:, shown:] - found_LC[:, shown : shown + 1], 0, atol=TOLERANCE[precision])


def test_without_a_context_all_logits_are_equal(precision):
    x_LX, y_L = episode(precision)
    for scale in (1, 0):
        found_LC = logits(precision, scale * x_LX, y_L, n=0)
        np.testing.assert_allclose(found_LC - found_LC[:, :1], 0, atol=TOLERANCE[precision])


def test_one_example_of_context_makes_one_class_differ(precision):
    x_LX, y_L = episode(precision)
    others = np.delete(logits(precision, x_LX, y_L, n=1), y_L[0], axis=1)
    np.testing.assert_allclose(others - others[:, :1], 0, atol=TOLERANCE[precision])
    scaled = logits(precision, 7 * x_LX, y_L, n=1)
    np.testing.assert_allclose(scaled, logits(precision, x_LX, y_L, n=1), atol=TOLERANCE[precision])


@pytest.mark.parametrize("equal", ["all", "context", "zeros", "pairs"])
def test_equal_points_give_finite_logits_that_rotations_leave(equal, precision):
    x_LX, y_L = episode(precision)
    if equal == "all":
        x_LX = np.repeat(x_LX[:1], L, axis=0)
    elif equal == "context":
        x_LX[:N] = x_LX[0]
    elif equal == "zeros":
        x_LX = np.zeros_like(x_LX)
    else:
        x_LX[1:N:2] = x_LX[0 : N - 1 : 2]
    before_LC = logits(precision, x_LX, y_L)
    after_LC = logits(precision, x_LX @ rotation(precision), y_L)
    np.testing.assert_allclose(after_LC, before_LC, atol=TOLERANCE[precision])
    if equal == "all":  # no example can be told from another: every query says the same
        np.testing.assert_allclose(before_LC[N:], before_LC[N:][[0]].repeat(L - N, 0), atol=TOLERANCE[precision])


class RawInputs(EquivariantTransformer):
    """Broken: a number of x itself, that no rotation leaves, enters."""

    def __call__(self, x_LX, y_L, num_context):
        return super().__call__(x_LX, y_L, num_context) + 0.01 * x_LX[:, :1]


class NamedLabels(EquivariantTransformer):
    """Broken: classes have names."""

    def __call__(self, x_LX, y_L, num_context):
        return super().__call__(x_LX, y_L, num_context) + 0.01 * jnp.arange(self.num_classes, dtype=x_LX.dtype)[None]


class Ordered(EquivariantTransformer):
    """Broken: the first example of the context counts more."""

    def __call__(self, x_LX, y_L, num_context):
        first_C = jax.nn.one_hot(y_L[0], self.num_classes, dtype=x_LX.dtype)
        return super().__call__(x_LX, y_L, num_context) + 0.01 * first_C[None]


class Transductive(EquivariantTransformer):
    """Broken: a query sees the other queries."""

    def __call__(self, x_LX, y_L, num_context):
        return super().__call__(x_LX, y_L, num_context) + 0.01 * x_LX.mean() * jax.nn.one_hot(y_L[0], self.num_classes)[None]


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (RawInputs, lambda: test_rotations_and_scalings_of_the_inputs_change_nothing("rotation", "float32")),
        (RawInputs, lambda: test_rotations_and_scalings_of_the_inputs_change_nothing("reflection", "float32")),
        (RawInputs, lambda: test_rotations_and_scalings_of_the_inputs_change_nothing("more dimensions", "float32")),
        (RawInputs, lambda: test_rotations_and_scalings_of_the_inputs_change_nothing("times 1000", "float32")),
        (RawInputs, lambda: test_rotations_and_scalings_of_the_inputs_change_nothing("divided by 1000", "float32")),
        (NamedLabels, lambda: test_a_permutation_of_the_labels_permutes_the_logits("a cycle", 5, "float32")),
        (NamedLabels, lambda: test_a_permutation_of_the_labels_permutes_the_logits("two classes", 3, "float32")),
        (NamedLabels, lambda: test_weights_serve_another_number_of_classes(6, "float32")),
        (NamedLabels, lambda: test_without_a_context_all_logits_are_equal("float32")),
        (NamedLabels, lambda: test_one_example_of_context_makes_one_class_differ("float32")),
        (Ordered, lambda: test_the_order_of_the_context_changes_no_query("float32")),
        (Transductive, lambda: test_a_query_is_predicted_alone_as_among_others("float32", Transductive)),
        (RawInputs, lambda: test_equal_points_give_finite_logits_that_rotations_leave("pairs", "float32")),
    ],
)
def test_a_broken_symmetry_goes_red(kind, test, monkeypatch):
    monkeypatch.setitem(globals(), "EquivariantTransformer", kind)
    monkeypatch.setitem(globals(), "logits", functools.partial(logits, kind=kind))
    with pytest.raises(AssertionError):
        test()


SYMMETRIES = {
    "rotations": lambda: test_rotations_and_scalings_of_the_inputs_change_nothing("rotation", "float32"),
    "label permutations": lambda: test_a_permutation_of_the_labels_permutes_the_logits("a cycle", 5, "float32"),
    "context permutations": lambda: test_the_order_of_the_context_changes_no_query("float32"),
}
ABLATIONS = {
    "rotations": WithoutRotations,
    "label permutations": WithoutLabelPermutations,
    "context permutations": WithoutContextPermutations,
}


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("without", ABLATIONS)
def test_an_ablation_lacks_its_own_symmetry_and_no_other(without, symmetry, monkeypatch):
    kind = ABLATIONS[without]
    monkeypatch.setitem(globals(), "EquivariantTransformer", kind)
    monkeypatch.setitem(globals(), "logits", functools.partial(logits, kind=kind))
    with pytest.raises(AssertionError) if symmetry == without else contextlib.nullcontext():
        SYMMETRIES[symmetry]()


@pytest.mark.parametrize(
    "build", [lambda config: Trainer(config, devices=jax.devices()[:1]), lambda config: Population([config])]
)
def test_a_context_that_no_memory_holds_is_refused_before_anything_is_compiled(build, monkeypatch):
    monkeypatch.setattr(base, "device_memory", lambda: (8e9, "this machine"))
    with pytest.raises(
        UserError,
        match=r"length = 30,000 needs 691 GB for attention, but this machine has 8 GB; lower tasks.length, raise",
    ):
        build(load_config("digits", ("--data.train=random", "--tasks.length=30000")))


def test_the_learner_takes_any_number_of_features():
    learner = make_learner(load_config("digits"))
    params = jax.eval_shape(learner.init, jax.random.key(0))
    for num_features in (3, 200):
        made = Episode(jnp.ones((30, num_features)), jnp.arange(30) % 10, jnp.int32(20))
        assert jax.eval_shape(learner.predict, params, made, key=jax.random.key(1)).shape == (30, 10)
