"""What is the same on every version and backend: random words, a permutation and integers of fixed keys, by their digests."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.hyper import hyper_from
from gpicl_jax.sections import Config
from gpicl_jax.tasks.augmented import TaskDistribution, draw_task, seen_task_keys
from gpicl_jax.tasks.projection import Matrix, integer_matrix, project
from gpicl_jax.tasks.randomness import random_words
from gpicl_jax.tasks.sources.random_points import RandomPoints

PINNED = {
    "words": "9789bc69f73768cc",
    "task_words": "1c2e43bd0ac76bcc",
    "permutation": "6dbe196855c6af10",
    "integer_entries": "edfaa7556d6a6cfe",
    "integer_products": "2431dc2ad61e961f",
}


def pinned_arrays() -> dict[str, jax.Array]:
    """Computes on the default device what `PINNED` has the digests of.

    Example:
      >>> pinned_arrays()["permutation"].tolist()
      [4, 8, 6, 0, 9, 1, 2, 5, 7, 3]
    """
    task_key = seen_task_keys(hyper_from(Config()), jnp.arange(12))[11]
    entries_XX = integer_matrix(jax.random.key(7), 65).entries_XX  # odd: the last row has no partner
    pixels_LX = (jnp.arange(20 * 65, dtype=jnp.int32) % 256).astype(jnp.uint8).reshape(20, 65)
    unscaled = Matrix(entries_XX, jnp.float32(1))
    return {
        "words": random_words(jax.random.key(7), (64, 64)),
        "task_words": random_words(jax.random.split(task_key, 3)[0], (64, 64)),
        "permutation": jax.jit(draw_task)(TaskDistribution(RandomPoints(64), length=20), task_key).permutation_C,
        "integer_entries": entries_XX,
        "integer_products": jax.jit(project)(unscaled, pixels_LX, jnp.float32(0), jnp.float32(1)).astype(jnp.int32),
    }


def digest(array: jax.Array) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of an array's bytes.

    Example:
      >>> digest(jnp.zeros(3, jnp.int8))
      '709e80c88487a241'
    """
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()[:16]
