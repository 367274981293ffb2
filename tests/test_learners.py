"""Every learner that a config can name: what it may see, it uses; what it may not see, it cannot."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.config import ModelConfig, hyper_from
from gpicl_jax.factory import make_learner, make_tasks
from gpicl_jax.learners import score_rows
from gpicl_jax.tasks import draw_episode
from tests.helpers import tiny_config


def choices(name):
    return ModelConfig.__dataclass_fields__[name].metadata["choices"]


REGISTRY = [
    pytest.param(
        (f"--model.name={name}", f"--model.layout={layout}", f"--model.smear_keys={smear}", f"--model.dtype={dtype}"),
        id=f"{name}-{layout}-{'smeared-' if smear == 'true' else ''}{dtype}",
    )
    for name, layout, smear, dtype in itertools.product(choices("name"), choices("layout"), ("false", "true"), choices("dtype"))
]


@pytest.fixture(params=REGISTRY)
def case(request):
    """A learner with random weights everywhere (biases and gates too), and an episode."""
    config = tiny_config("--model.num_layers=2", *request.param)
    tasks = make_tasks(config, "train")
    learner = make_learner(config)
    params = learner.init(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    episode = draw_episode(tasks, jax.random.key(2), hyper_from(config))
    return learner, jax.tree.unflatten(structure, noisy), episode


def may_see(episode):
    """may_see[i, j]: whether row i may use example j; x_i itself is always visible to row i."""
    length, context = len(episode.y_L), int(episode.num_context)
    row, example = np.indices((length, length))
    return np.where(row < context, example < row, example < context)


def test_inputs_are_seen_by_the_rows_that_may_and_by_no_other(case):
    learner, params, episode = case
    predict = lambda x_LX: learner.predict(params, episode._replace(x_LX=x_LX), key=jax.random.key(3))  # noqa: E731
    jacobian_LCLX = np.asarray(jax.jit(jax.jacrev(predict))(episode.x_LX))
    moved_LL = np.abs(jacobian_LCLX).sum(axis=(1, 3))
    allowed_LL = may_see(episode) | np.eye(len(episode.y_L), dtype=bool)
    rows = np.asarray(learner.scored_rows(episode))
    assert (moved_LL[rows][~allowed_LL[rows]] == 0).all()
    assert (moved_LL[rows][allowed_LL[rows]] > 0).all()


def test_labels_are_seen_by_the_rows_that_may_and_by_no_other(case):
    learner, params, episode = case
    predict = jax.jit(lambda y_L: learner.predict(params, episode._replace(y_L=y_L), key=jax.random.key(3)))
    before_LC = np.asarray(predict(episode.y_L))
    rows = np.asarray(learner.scored_rows(episode))
    for example in range(len(episode.y_L)):
        other = predict(episode.y_L.at[example].set((episode.y_L[example] + 1) % 10))
        moved_L = np.abs(np.asarray(other) - before_LC).max(axis=1)
        allowed_L = may_see(episode)[:, example]
        assert (moved_L[rows & ~allowed_L] == 0).all()
        assert (moved_L[rows & allowed_L] > 0).all()


def test_same_result_eager_jitted_and_batched(case):
    learner, params, episode = case
    predict = lambda episode: learner.predict(params, episode, key=jax.random.key(3))  # noqa: E731
    tolerance = 1e-5 if learner.model.dtype == jnp.float32 else 5e-2
    jitted = jax.jit(predict)(episode)
    assert jitted.dtype == jnp.float32 and jitted.shape == (12, 10)
    np.testing.assert_allclose(predict(episode), jitted, atol=tolerance)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), episode)
    np.testing.assert_allclose(jax.jit(jax.vmap(predict))(batch)[1], jitted, atol=tolerance)


def test_loss_is_the_mean_cross_entropy_of_all_rows(case):
    learner, params, episode = case
    loss, metrics = learner.loss(params, episode, key=jax.random.key(3))
    logits_LC = np.asarray(learner.predict(params, episode, key=jax.random.key(3)), np.float64)
    log_prob_LC = logits_LC - np.log(np.exp(logits_LC).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(loss, -log_prob_LC[np.arange(12), episode.y_L].mean(), rtol=1e-4)
    np.testing.assert_array_equal(metrics["accuracy_L"], logits_LC.argmax(axis=1) == episode.y_L)


def test_untrained_loss_of_equal_logits_is_log_C():
    loss_L, _ = score_rows(jnp.zeros((4, 10)), jnp.arange(4))
    np.testing.assert_allclose(loss_L, np.log(10), rtol=1e-6)
