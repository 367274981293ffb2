import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpicl_jax.tasks import TaskDistribution, draw_episodes, projection, randomness
from gpicl_jax.tasks.pinned import PINNED, digest, pinned_arrays
from gpicl_jax.tasks.sources.images import load


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 3), (64, 64)])
def test_words_and_normals_are_those_of_jax_to_the_bit(shape):
    for seed in range(3):
        key = jax.random.key(seed)
        np.testing.assert_array_equal(randomness.random_words(key, shape), jax.random.bits(key, shape))
        np.testing.assert_array_equal(
            jax.jit(randomness.random_normal, static_argnums=1)(key, shape), jax.random.normal(key, shape)
        )


@pytest.mark.parametrize("name", PINNED)
def test_words_permutation_and_integers_are_the_same_on_every_version_and_backend(name):
    assert digest(pinned_arrays()[name]) == PINNED[name]


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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_of_integer_entries_and_pixels_are_exact(dtype):
    """In the worst case too: all pixels 255 and entries of one sign."""
    num_features = 1024
    pixels = np.random.default_rng(0).integers(0, 256, (20, num_features), dtype=np.uint8)
    pixels[0] = 255
    entries_XX = projection.integer_matrix(jax.random.key(3), num_features).entries_XX.at[0].set(16)
    exact = pixels.astype(np.int64) @ np.asarray(entries_XX).astype(np.int64).T
    np.testing.assert_array_equal(np.asarray(projection.product(dtype, pixels, entries_XX), np.int64), exact)
    mean_zero = projection.project(projection.Matrix(entries_XX, jnp.float32(1)), pixels, jnp.float32(0), jnp.float32(1))
    np.testing.assert_array_equal(np.asarray(mean_zero, np.int64), exact)


@pytest.mark.parametrize(("platform", "dtype"), [("cpu", "f32"), ("cuda", "bf16"), ("tpu", "bf16")])
def test_a_program_is_that_of_the_platform_it_is_lowered_for(platform, dtype):
    """The precision of integer products, the number of tasks at once, and Cholesky factors. A CPU takes those in turns: a
    batch of them inside a loop waits for ever there.
    """
    tasks = TaskDistribution(load("digits", "train"), length=20, entries="integer")
    keys = jax.random.split(jax.random.key(0), 2000), jax.random.split(jax.random.key(1), (2000, 1))

    def lowered(tasks):
        return jax.jit(draw_episodes).trace(tasks, *keys).lower(lowering_platforms=(platform,)).as_text()

    at_once = 256 if platform == "cpu" else 2000  # matrices of 64 × 64 fill 4 MiB
    assert f"(tensor<{at_once}x20x64x{dtype}>, tensor<{at_once}x64x64x{dtype}>)" in lowered(tasks)
    factor = {"cpu": r'potrf.*num_batch_dims = "0"', "cuda": r'potrf.*num_batch_dims = "1"', "tpu": r"cholesky.*2000x20x20"}
    assert re.search(factor[platform], lowered(dataclasses.replace(tasks, entries="gram")))


def _gram_of_projections(make, x_LX, num_tasks):
    """Gram matrices [T, L, L] of x_LX, projected by `make(key)`, in float64."""
    one, zero = jnp.float32(1), jnp.float32(0)
    project = jax.jit(jax.vmap(lambda key: projection.project(make(key), x_LX, zero, one)))
    y_TLX = np.asarray(project(jax.random.split(jax.random.key(1), num_tasks)), np.float64)
    return y_TLX @ y_TLX.transpose(0, 2, 1)


@pytest.mark.parametrize(("length", "num_features"), [(4, 9), (6, 6)])  # at L = X the last χ has one degree of freedom
def test_a_gram_matrix_without_a_matrix_has_the_law_of_one_with(length, num_features):
    """Means, covariances and third moments of its entries, and those of its eigenvalues at both ends."""
    x_LX = jax.random.normal(jax.random.key(0), (length, num_features)) + 1.0  # dependent: they share a mean
    num_tasks = 40_000
    without_TLL = _gram_of_projections(projection.Unmade, x_LX, num_tasks)
    with_TLL = _gram_of_projections(lambda key: projection.normal_matrix(key, num_features), x_LX, num_tasks)
    exact_LL = np.asarray(x_LX, np.float64) @ np.asarray(x_LX, np.float64).T
    entries = np.triu_indices(length)
    # a Wishart matrix of X degrees of freedom: E[W] = G, Cov(W_ij, W_kl) = (G_ik G_jl + G_il G_jk) / X
    i, j = entries
    covariance = (
        exact_LL[np.ix_(i, i)] * exact_LL[np.ix_(j, j)] + exact_LL[np.ix_(i, j)] * exact_LL[np.ix_(j, i)]
    ) / num_features
    scale = np.sqrt(np.diag(covariance))
    z_TE = (without_TLL - exact_LL)[:, *entries] / scale
    error = 1 / np.sqrt(num_tasks)
    assert abs(z_TE.mean(axis=0)).max() < 4.5 * error
    found = z_TE.T @ z_TE / num_tasks
    spread = np.std(z_TE[:, :, None] * z_TE[:, None], axis=0)
    assert (abs(found - covariance / np.outer(scale, scale)) < 4.5 * error * spread).all()
    other_TE = (with_TLL - exact_LL)[:, *entries] / scale
    ends_of = lambda each_TLL: np.linalg.eigvalsh(each_TLL)[:, [0, -1]]  # noqa: E731
    for one, other in ((z_TE**3, other_TE**3), (ends_of(without_TLL), ends_of(with_TLL))):
        errors = np.sqrt((one.var(axis=0) + other.var(axis=0)) / num_tasks)
        assert (abs(one.mean(axis=0) - other.mean(axis=0)) < 4.5 * errors).all()
    ends = zip(ends_of(without_TLL).T, ends_of(with_TLL).T, strict=True)
    assert min(stats.ks_2samp(one, other).pvalue for one, other in ends) > 1e-4


def test_images_that_depend_on_each_other_have_their_gram_matrix():
    """Digits of 8×8, enlarged, have rank 64 at most; 100 equal ones have rank 1."""
    small = np.asarray(load("digits", "train").images_NX[:100]).reshape(-1, 8, 8)
    for pixels in (
        small.repeat(2, 1).repeat(2, 2).reshape(100, 256),
        np.repeat(small[:1], 100, 0).repeat(4, 1).reshape(100, 256),
    ):
        standard = (pixels.astype(np.float32) - 78) / 96
        exact_LL = standard.astype(np.float64) @ standard.astype(np.float64).T
        found_TLL = _gram_of_projections(projection.Unmade, jnp.asarray(standard), 400)
        np.testing.assert_allclose(found_TLL.mean(axis=0), exact_LL, atol=0.03 * np.abs(exact_LL).max())
        equal = (standard[:, None] == standard[None]).all(axis=2)
        squares_TL = np.diagonal(found_TLL, axis1=1, axis2=2)
        distance_TLL = squares_TL[:, :, None] + squares_TL[:, None] - 2 * found_TLL
        assert distance_TLL[:, equal].max() < 1e-3 * squares_TL.mean()  # what the diagonal is raised by


def test_a_gram_matrix_is_the_same_alone_and_in_a_batch():
    x_LX = jax.random.normal(jax.random.key(0), (20, 64))
    draw = lambda key: projection.project(projection.Unmade(key), x_LX, jnp.float32(0), jnp.float32(1))  # noqa: E731
    keys = jax.random.split(jax.random.key(1), 6)
    alone = [np.asarray(jax.jit(draw)(key)) for key in keys]
    for batch in (jax.jit(jax.vmap(draw))(keys), jax.jit(lambda keys: jax.lax.map(draw, keys))(keys)):
        np.testing.assert_allclose(batch, np.stack(alone), atol=1e-5)
    words = jax.jit(jax.vmap(lambda key: jax.random.chisquare(key, jnp.arange(64.0, 44.0, -1))))(keys)
    np.testing.assert_array_equal(words[2], jax.random.chisquare(keys[2], jnp.arange(64.0, 44.0, -1)))
