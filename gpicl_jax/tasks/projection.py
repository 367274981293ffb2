"""The random matrices of the tasks, made fast."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpicl_jax.sections import GRAM, IDENTITY
from gpicl_jax.tasks.randomness import random_normal, threefry

# Bytes of matrices that are alive at once: what a CPU's cache holds, or a small part of an accelerator's memory.
CPU_BYTES, ACCELERATOR_BYTES = 4 * 2**20, 2**30
MOST_INTEGER_FEATURES = 4111  # the largest X with 16 · 255 · X < 2²⁴
_JITTER = 1e-6  # of the trace; from 1e-7 on, dependent images have a Cholesky factor in float32


class Matrix(NamedTuple):
    """A = scale · entries.

    Attributes:
      entries_XX: float32 [X, X], or int8 for integers.
      scale: float32 scalar.
    """

    entries_XX: jax.Array
    scale: jax.Array


class Unmade(NamedTuple):
    """A matrix that is never made. It projects only one episode of L ≤ X examples, for a learner of their Gram matrix.

    Attributes:
      key: key of its entries.
    """

    key: jax.Array


Projection = Matrix | Unmade | None  # None: A = I, which is no product at all


def draw_projection(entries: str, key: jax.Array, num_features: int, length: int) -> Projection:
    """Returns the projection of a task with episodes of `length`, from its key. `TaskDistribution` explains `entries`."""
    if entries == IDENTITY:
        return None
    if entries == GRAM and num_features >= length:  # else a matrix is as cheap, and needs no full rank
        return Unmade(key)
    return (integer_matrix if entries == "integer" else normal_matrix)(key, num_features)


def normal_matrix(key: jax.Array, num_features: int) -> Matrix:
    """Draws A ∈ R^{X×X} with A_ij ~ N(0, 1/X), 1/X being the variance (paper, section 3; authors' code).

    Args:
      key: the task's projection key.
      num_features: X.

    Example:
      >>> entries_XX, scale = normal_matrix(jax.random.key(0), 64)
      >>> entries_XX.shape, round(float((scale * entries_XX).var() * 64), 1)
      ((64, 64), 1.0)
    """
    return Matrix(random_normal(key, (num_features, num_features)), jnp.float32(1 / math.sqrt(num_features)))


def integer_matrix(key: jax.Array, num_features: int) -> Matrix:
    """Draws A with entries of the same mean and variance, (number of ones in 32 random bits − 16) / √(8X).

    Binomial(32, ½) has variance 8 and an excess kurtosis of −1/16, the normal law 0. The entries before scaling are integers
    of at most 16, and pixels are uint8. All are exact even in bfloat16. So are their products, and their sums in float32 for
    X ≤ `MOST_INTEGER_FEATURES`. A x is then the same to the last bit on every device, however it is computed.

    Args:
      key: the task's projection key.
      num_features: X.

    Example:
      >>> entries_XX, scale = integer_matrix(jax.random.key(0), 64)
      >>> entries_XX[0, :3].tolist(), round(float((scale * entries_XX).var() * 64), 1)
      ([-5, 3, 4], 1.0)
    """
    half = -(-num_features // 2)
    counter = jax.lax.iota(jnp.uint32, half * num_features).reshape(half, num_features)
    # both words of a threefry block: the rows of the upper half from one, of the lower half from the other
    words_XX = jnp.concatenate(threefry(key, jnp.zeros_like(counter), counter))[:num_features]
    entries_XX = jax.lax.population_count(words_XX).astype(jnp.int8) - jnp.int8(16)
    return Matrix(entries_XX, jnp.float32(1 / math.sqrt(8 * num_features)))


def project(projection: Projection, pixels_LX: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Returns A (x − μ)/σ for every row x of pixels, as (A x − μ A1)/σ. Pixels stay uint8 up to the product.

    Returns:
      float32 [L, X], or for an `Unmade` matrix [L, L], rows of the same Gram matrix.
    """
    if projection is None:
        return (pixels_LX.astype(jnp.float32) - mean) / std
    if isinstance(projection, Unmade):
        return _project_once(projection.key, (pixels_LX.astype(jnp.float32) - mean) / std)
    entries_XX, scale = projection
    if pixels_LX.dtype == jnp.uint8 and entries_XX.dtype == jnp.int8:  # exact either way; a CPU is faster in float32
        halves = functools.partial(product, jnp.bfloat16)
        projected_LX = jax.lax.platform_dependent(
            pixels_LX, entries_XX, cpu=functools.partial(product, jnp.float32), default=halves
        )
    else:
        projected_LX = product(jnp.float32, pixels_LX, entries_XX)
    return (projected_LX - mean * entries_XX.sum(axis=1, dtype=jnp.float32)[None]) * (scale / std)


def product(dtype: jnp.dtype, pixels_LX: jax.Array, entries_XX: jax.Array) -> jax.Array:
    """Returns the products of rows, float32 [L, X], of factors that are rounded to `dtype`."""
    rows = ((1,), (1,)), ((), ())
    return jax.lax.dot_general(pixels_LX.astype(dtype), entries_XX.astype(dtype), rows, preferred_element_type=jnp.float32)


def _project_once(key: jax.Array, x_LX: jax.Array) -> jax.Array:
    """Draws only the Gram matrix of A x_1 … A x_L, A_ij ~ N(0, 1/X), and returns rows F that have it: float32 [L, L].

    A xᵀ = Z Cᵀ in law, with C Cᵀ = x xᵀ/X (Cholesky) and X × L standard normals Z. Zᵀ Z = B Bᵀ is a Wishart matrix of X degrees
    of freedom: B is lower triangular, B_ij ~ N(0, 1) below its diagonal, B_ii² ~ χ² with X − i + 1 degrees of freedom, i = 1 …
    L (Bartlett's decomposition: Anderson 2003, *An Introduction to Multivariate Statistical Analysis*, theorem 7.2.1). So F = C
    B has the Gram matrix of the projected images in law, from about L² random numbers in place of X². Its rows are those images
    up to a rotation. x xᵀ does not have full rank where images depend on each other, so a millionth of its trace is added to
    its diagonal. At L = 100 this is noise of 1% of the inputs' deviation.
    """
    length, num_features = x_LX.shape
    normal_key, chi_key = jax.random.split(key)
    gram_LL = jnp.matmul(x_LX, x_LX.T, precision="highest") / num_features
    gram_LL = gram_LL + _JITTER * jnp.trace(gram_LL) * jnp.eye(length)
    cholesky = functools.partial(jax.lax.linalg.cholesky, symmetrize_input=False)
    # on a CPU a batch of them inside a loop waits for ever (seen with jax 0.10.2, two threads)
    cholesky_LL = jax.lax.platform_dependent(gram_LL, cpu=jax.custom_batching.sequential_vmap(cholesky), default=cholesky)
    degrees_L = jnp.float32(num_features) - jnp.arange(length, dtype=jnp.float32)
    diagonal_L = jnp.sqrt(jax.random.chisquare(chi_key, degrees_L))
    bartlett_LL = jnp.tril(random_normal(normal_key, (length, length)), -1) + jnp.diag(diagonal_L)
    return jnp.matmul(cholesky_LL, bartlett_LL, precision="highest")


def tasks_at_once(entries: str, num_features: int, length: int, live_bytes: int) -> int:
    """Returns how many tasks to draw at a time, so that memory does not grow with the batch."""
    no_matrix = entries == IDENTITY or (entries == GRAM and num_features >= length)
    numbers = 2 * length * (num_features + length) if no_matrix else num_features**2  # images, and what becomes of them
    return max(1, live_bytes // (4 * numbers))
