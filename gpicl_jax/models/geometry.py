"""What the equivariant Transformer sees of an episode: distances and angles, in units of the context, and labels by class."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_FEW = 1e-5  # of their squares: examples that are closer count as equal, as float32 cannot tell them apart
_FARTHEST = 1e4  # norm of a query, in units of the largest number of the context, whose own norms are below for X < 10⁸
_LARGEST = 1e15  # number of a query, in these units: the sum of its squares is a float32 number

Geometry = tuple[jax.Array, jax.Array]  # distances |x_i − x_j|² and cosines of rows i and columns j, [L, M]


class Units(NamedTuple):
    """What places queries beside a context of N rows.

    Attributes:
      x_NX: its inputs, divided by `largest`.
      square_N: |x_i|², divided by `square`.
      largest, square, half: its largest number, its mean |x_i|², and half the mean squared distance of its pairs.
    """

    x_NX: jax.Array
    square_N: jax.Array
    largest: jax.Array
    square: jax.Array
    half: jax.Array


def geometry(x_LX: jax.Array, in_context_L: jax.Array) -> tuple[jax.Array, Geometry, Units]:
    """Returns what is left of inputs without rotations, in units of the context. A scaling of x changes nothing.

    A squared norm is in units of its mean over the context, a squared distance in units of half its mean over the pairs of the
    context. Products are in full float32, because tf32 and bfloat16 would blur near neighbours. No query can spoil another's
    numbers: a query longer than 10⁴ times the largest number of the context is scaled down to that, and NaN counts as 0.

    Args:
      x_LX: inputs [L, X].
      in_context_L: bool [L].

    Returns:
      |x_i|² [L], then |x_i − x_j|² [L, L] and cos(x_i, x_j) [L, L], and the units.

    Example:
      >>> square_L, (distance_LL, cosine_LL), _ = geometry(jnp.array([[3.0, 0.0], [0.0, 3.0]]), jnp.array([True, True]))
      >>> square_L.tolist(), distance_LL.tolist(), cosine_LL[0].tolist()
      ([1.0, 1.0], [[0.0, 2.0], [2.0, 0.0]], [1.0, 0.0])
    """
    weight_L = in_context_L.astype(x_LX.dtype)
    num = weight_L.sum()
    largest = jnp.where(in_context_L[:, None], jnp.abs(x_LX), 0).max()  # of the context alone: no query may change another
    x_LX = _bounded(x_LX, in_context_L, largest)
    gram_LL = jnp.matmul(x_LX, x_LX.T, precision="highest")
    square_L = jnp.diagonal(gram_LL)
    context_square = (square_L * weight_L).sum() / jnp.maximum(num, 1)
    square = jnp.where(context_square > 0, context_square, 1.0)
    gram_LL, square_L = gram_LL / square, square_L / square
    distance_LL, cosine_LL = _pairs(gram_LL, square_L, square_L)
    pair_LL = weight_L[:, None] * weight_L[None] * (1 - jnp.eye(len(weight_L)))
    mean_distance = (distance_LL * pair_LL).sum() / jnp.maximum(pair_LL.sum(), 1)
    half = jnp.maximum(jnp.where(num > 1, mean_distance / 2, 1.0), _FEW)
    return square_L, (distance_LL / half, cosine_LL), Units(x_LX, square_L, largest, square, half)


def geometry_of_queries(x_QX: jax.Array, units: Units) -> tuple[jax.Array, Geometry]:
    """Returns what `geometry` would say of queries in the episode of a context of N rows.

    Returns:
      |x_i|² [Q], then |x_i − x_j|² [Q, N + Q] and cos(x_i, x_j) [Q, N + Q], over the context and then the queries.

    Example:
      >>> *_, units = geometry(jnp.array([[3.0, 0.0], [0.0, 3.0]]), jnp.array([True, True]))
      >>> square_Q, (distance_QM, cosine_QM) = geometry_of_queries(jnp.array([[3.0, 0.0]]), units)
      >>> square_Q.tolist(), distance_QM.tolist(), cosine_QM.tolist()
      ([1.0], [[0.0, 2.0, 0.0]], [[1.0, 0.0, 1.0]])
    """
    x_QX = _bounded(x_QX, jnp.zeros(len(x_QX), bool), units.largest)
    gram_QM = jnp.matmul(x_QX, jnp.concatenate([units.x_NX, x_QX]).T, precision="highest") / units.square
    square_Q = jnp.diagonal(gram_QM, len(units.x_NX))
    distance_QM, cosine_QM = _pairs(gram_QM, square_Q, jnp.concatenate([units.square_N, square_Q]))
    return square_Q, (distance_QM / units.half, cosine_QM)


def _bounded(x_LX: jax.Array, in_context_L: jax.Array, largest: jax.Array) -> jax.Array:
    """Returns inputs divided by the largest number of the context, whose squares might not be float32 numbers."""
    x_LX = x_LX / jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1.0))
    x_LX = jnp.where(in_context_L[:, None], x_LX, jnp.clip(jnp.nan_to_num(x_LX), -_LARGEST, _LARGEST))
    return x_LX * (_FARTHEST / jnp.maximum(jnp.linalg.norm(x_LX, axis=1), _FARTHEST))[:, None]


def _pairs(gram_LM: jax.Array, square_L: jax.Array, square_M: jax.Array) -> Geometry:
    both_LM = square_L[:, None] + square_M[None]
    distance_LM = both_LM - 2 * gram_LM
    distance_LM = jnp.where(distance_LM > _FEW * both_LM, distance_LM, 0.0)
    return distance_LM, gram_LM * jax.lax.rsqrt(jnp.maximum(square_L[:, None] * square_M[None], _FEW**2))


def class_streams(size_L: jax.Array, distance_LM: jax.Array, label_MC: jax.Array, in_context_M: jax.Array) -> jax.Array:
    """Returns the first numbers of a class's stream at each example.

    Args:
      size_L, distance_LM: see `geometry`. The rows are the last L of the M columns.
      label_MC: one-hot labels of the context, 0 for queries.
      in_context_M: bool [M].

    Returns:
      [L, C, 6]: is it the example's label, the class's share of the context, is the example context, its norm, the distance of
      its nearest context, and the size of the context.

    Example:
      >>> label_LC, in_context_L = jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.array([True, False])
      >>> class_streams(jnp.ones(2), jnp.ones((2, 2)), label_LC, in_context_L)[1, 1, :3].tolist()
      [0.0, 3.0, 0.0]
    """
    num, (length, columns) = in_context_M.sum(), distance_LM.shape
    others_LM = in_context_M[None] & ~jnp.eye(length, columns, columns - length, dtype=bool)
    nearest_L = jnp.where(others_LM, distance_LM, jnp.inf).min(axis=1)
    nearest_L = jnp.where(others_LM.any(axis=1), nearest_L, 1.0)
    share_C = label_MC.sum(axis=0) / jnp.maximum(num, 1)
    of_row_IL = [in_context_M[-length:], jnp.sqrt(size_L), nearest_L, jnp.full(length, jnp.log1p(num) / 5)]
    columns = [3 * label_MC[-length:], 3 * share_C[None], *(each_L[:, None] for each_L in of_row_IL)]
    return jnp.stack(jnp.broadcast_arrays(*columns), axis=-1, dtype=size_L.dtype)
