import hashlib
import re

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


@pytest.mark.parametrize(
    ("make", "kurtosis"), [(projection.normal_matrix, 0), (projection.integer_matrix, -1 / 16)], ids=["normal", "integer"]
)
def test_entries_have_mean_zero_and_variance_one_over_X(make, kurtosis):
    num_features, num_tasks = 64, 400
    keys = jax.random.split(jax.random.key(0), num_tasks)
    entries_TXX, scale_T = jax.vmap(lambda key: make(key, num_features))(keys)
    matrices = np.asarray(entries_TXX, np.float64) * float(scale_T[0])
    entries = matrices.size
    excess = (matrices**4).mean() * num_features**2 - 3
    assert abs(excess - kurtosis) < 4 * np.sqrt(24 / entries)
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
    standard = (np.asarray(dataset.images_NX[:50], np.float64) - float(dataset.mean)) / float(dataset.std)
    for make in (projection.normal_matrix, projection.integer_matrix):
        matrix = make(jax.random.key(1), 64)
        x_LX = projection.project(matrix, dataset.images_NX[:50], dataset.mean, dataset.std)
        entries = np.asarray(matrix.entries_XX, np.float64) * float(matrix.scale)
        np.testing.assert_allclose(x_LX, standard @ entries.T, atol=2e-5)
        assert x_LX.dtype == jnp.float32


def test_integer_entries_are_the_same_on_every_version_and_backend():
    entries_XX, _ = projection.integer_matrix(jax.random.key(7), 65)  # odd: the last row has no partner
    integers = np.asarray(entries_XX).astype(np.int8)
    np.testing.assert_array_equal(integers, np.asarray(entries_XX, np.float64))
    assert hashlib.sha256(integers.tobytes()).hexdigest()[:16] == "edfaa7556d6a6cfe"


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_of_integer_entries_and_pixels_are_exact(dtype, monkeypatch):
    """In the worst case too: all pixels 255 and entries of one sign."""
    monkeypatch.setattr(projection, "_INTEGERS", {jax.default_backend(): dtype})
    num_features = 1024
    pixels = np.random.default_rng(0).integers(0, 256, (20, num_features), dtype=np.uint8)
    pixels[0] = 255
    entries_XX, _ = projection.integer_matrix(jax.random.key(3), num_features)
    assert entries_XX.dtype == dtype
    entries_XX = entries_XX.at[0].set(16)
    exact = pixels.astype(np.int64) @ np.asarray(entries_XX).astype(np.int64).T
    mean_zero = projection.project(projection.Matrix(entries_XX, jnp.float32(1)), pixels, jnp.float32(0), jnp.float32(1))
    np.testing.assert_array_equal(np.asarray(mean_zero, np.int64), exact)


def test_rows_of_a_matrix_that_is_never_made_have_the_law_of_a_matrix_times_images():
    """Over many tasks: mean zero, covariance G = x xᵀ/X between examples, none between features, and a normal's kurtosis."""
    x_LX = jax.random.normal(jax.random.key(0), (4, 9)) + 1.0  # dependent: they share a mean
    keys = jax.random.split(jax.random.key(1), 40_000)
    project = jax.jit(jax.vmap(lambda key: projection.project(projection.Unmade(key), x_LX, jnp.float32(0), jnp.float32(1))))
    y_TLX = np.asarray(project(keys), np.float64)
    gram_LL = np.asarray(x_LX, np.float64) @ np.asarray(x_LX, np.float64).T / 9
    largest, error = gram_LL.max(), 4 / np.sqrt(len(keys))
    assert abs(y_TLX.mean(0)).max() < error * np.sqrt(largest)
    covariance = np.einsum("tlx,tmy->xylm", y_TLX, y_TLX) / len(keys)
    np.testing.assert_allclose(covariance[np.arange(9), np.arange(9)], np.tile(gram_LL, (9, 1, 1)), atol=2 * error * largest)
    assert abs(covariance[~np.eye(9, dtype=bool)]).max() < 1.5 * error * largest
    z = y_TLX[:, 0, 0] / np.sqrt(gram_LL[0, 0])
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / len(keys))


def test_images_that_depend_on_each_other_can_be_projected_once():
    """Digits of 8×8, enlarged, have rank 64 at most; 100 equal ones have rank 1. The outcome still has their Gram matrix."""
    small = np.asarray(load("digits", "train").images_NX[:100]).reshape(-1, 8, 8)
    for pixels in (
        small.repeat(2, 1).repeat(2, 2).reshape(100, 256),
        np.repeat(small[:1], 100, 0).repeat(4, 1).reshape(100, 256),
    ):
        y_TLX = jax.vmap(
            lambda key, pixels=pixels: projection.project(
                projection.Unmade(key), jnp.asarray(pixels), jnp.float32(78), jnp.float32(96)
            )
        )(jax.random.split(jax.random.key(0), 200))
        standard = (pixels.astype(np.float64) - 78) / 96
        found = np.einsum("tlx,tmx->lm", np.asarray(y_TLX, np.float64), np.asarray(y_TLX, np.float64)) / 200
        np.testing.assert_allclose(found, standard @ standard.T, atol=0.03 * np.abs(standard @ standard.T).max())


def test_cholesky_factors_are_never_batched_on_a_cpu():
    """A batch of them inside a loop waits for ever there."""
    x_BLX = jnp.ones((3, 4, 9))

    def project(key, x_LX):
        return projection.project(projection.Unmade(key), x_LX, jnp.float32(0), jnp.float32(1))

    program = str(jax.make_jaxpr(jax.vmap(project))(jax.random.split(jax.random.key(0), 3), x_BLX))
    assert re.findall(r"f32\[([\d,]+)\] = cholesky", program) == ["4,4"]
