import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.data import load
from gpicl_jax.tasks import projection


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 3), (64, 64)])
def test_words_and_normals_are_those_of_jax_to_the_bit(shape):
    for seed in range(3):
        key = jax.random.key(seed)
        np.testing.assert_array_equal(projection.random_words(key, shape), jax.random.bits(key, shape))
        np.testing.assert_array_equal(
            jax.jit(projection.random_normal, static_argnums=1)(key, shape), jax.random.normal(key, shape)
        )


def test_words_are_the_same_on_every_version_and_backend():
    words = np.asarray(projection.random_words(jax.random.key(7), (64, 64)))
    assert hashlib.sha256(words.tobytes()).hexdigest()[:16] == "9789bc69f73768cc"


def test_entries_have_mean_zero_and_variance_one_over_X():
    num_features, num_tasks = 64, 400
    keys = jax.random.split(jax.random.key(0), num_tasks)
    matrices = np.asarray(jax.vmap(lambda key: projection.projection_matrix(key, num_features))(keys), np.float64)
    entries = matrices.size
    assert abs(matrices.mean()) < 4 / np.sqrt(num_features * entries)
    assert abs(matrices.var() * num_features - 1) < 4 * np.sqrt(2 / entries)
    largest = np.linalg.svd(matrices, compute_uv=False)[:, 0]
    assert 1.85 < largest.mean() < 2.0  # → 2 for large X (Marchenko–Pastur edge), from below at X = 64
    # tasks are independent of each other, and so are neighbouring entries
    flat = matrices.reshape(num_tasks, -1) * np.sqrt(num_features)
    assert abs((flat[:-1] * flat[1:]).mean()) < 4 / np.sqrt(entries)
    assert abs((flat[:, :-1] * flat[:, 1:]).mean()) < 4 / np.sqrt(entries)


def test_projecting_uint8_equals_projecting_standardised_pixels():
    dataset = load("digits", "train")
    matrix = projection.projection_matrix(jax.random.key(1), 64)
    x_LX = projection.project(matrix, dataset.images_NX[:50], dataset.mean, dataset.std)
    standard = (np.asarray(dataset.images_NX[:50], np.float64) - float(dataset.mean)) / float(dataset.std)
    np.testing.assert_allclose(x_LX, standard @ np.asarray(matrix, np.float64).T, atol=2e-5)
    assert x_LX.dtype == jnp.float32
