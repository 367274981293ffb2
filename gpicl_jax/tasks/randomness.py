"""Random words and numbers that make task i always the same.

Threefry-2x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is written out round by round, because
on a CPU `jax.random.bits` runs it as a rolled loop that does not fuse with other operations. The words are the same to the bit.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(key: jax.Array, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns two uint32 words for each pair of uint32 counters: Threefry-2x32 with 20 rounds under one typed key."""
    first, second = jax.random.key_data(key)
    schedule = (first, second, first ^ second ^ np.uint32(0x1BD11BDA))
    a, b = high + schedule[0], low + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            a = a + b
            b = ((b << rotation) | (b >> (32 - rotation))) ^ a
        a = a + schedule[(group + 1) % 3]
        b = b + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return a, b


def random_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns uint32 words of `shape`, equal to `jax.random.bits(key, shape)`, for fewer than 2³² of them."""
    counter = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    a, b = threefry(key, jnp.zeros_like(counter), counter)
    return a ^ b


def random_uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns float32 numbers of `shape`, uniform in [0, 1), equal to `jax.random.uniform(key, shape)`."""
    words = random_words(key, shape)
    return jax.lax.bitcast_convert_type((words >> 9) | np.uint32(0x3F800000), jnp.float32) - np.float32(1)


def random_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns float32 standard normals of `shape`, equal to `jax.random.normal(key, shape)` on the same backend."""
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jnp.maximum(lowest, random_uniform(key, shape) * (np.float32(1) - lowest) + lowest)
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)
