"""Draws without replacement: different numbers below N at a cost that does not grow with N."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.tasks.randomness import threefry

_FEISTEL_ROUNDS = 8
_FEWEST = np.uint32(6)


def draw_image_indices(key: jax.Array, num_images: int | jax.Array, length: int) -> jax.Array:
    """Returns `length` different numbers below `num_images`, int32 [L], at a cost that does not depend on `num_images`.

    It is a keyed bijection of {0 … N−1}, evaluated at 0 … L−1: an unbalanced Feistel network on a × b ≥ N (a, b ≈ √N), whose
    values ≥ N are sent through it again ("cycle walking": Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
    `num_images` may be traced.
    """
    if isinstance(num_images, int):
        rows = math.isqrt(num_images - 1) + 1
        columns = -(-num_images // rows)
    else:  # in integers alone, to be the same on every backend: the power of two next to √N; few rows would mix badly
        num_images = num_images.astype(jnp.uint32)
        rows = jnp.maximum(jnp.uint32(1) << ((33 - jax.lax.clz(num_images - 1)) // 2), _FEWEST)
        columns = jnp.maximum((num_images + rows - 1) // rows, _FEWEST)

    def two_rounds(turn: jax.Array, halves: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left_L, right_L = halves
        number_L = jnp.full_like(left_L, turn)
        left_L = (left_L + threefry(key, 2 * number_L, right_L)[0] % rows) % rows
        right_L = (right_L + threefry(key, 2 * number_L + 1, left_L)[0] % columns) % columns
        return left_L, right_L

    def send_through(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        values_L, waiting_L = state
        # rolled loops: unrolled, the rounds would take longer to compile than the rest of a training step
        left_L, right_L = jax.lax.fori_loop(0, _FEISTEL_ROUNDS // 2, two_rounds, (values_L // columns, values_L % columns))
        values_L = jnp.where(waiting_L, left_L * columns + right_L, values_L)
        return values_L, values_L >= num_images

    start_L = jax.lax.iota(jnp.uint32, length)
    indices_L, _ = jax.lax.while_loop(lambda state: state[1].any(), send_through, (start_L, jnp.ones(length, bool)))
    return indices_L.astype(jnp.int32)
