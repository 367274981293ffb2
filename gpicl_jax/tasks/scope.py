"""What part of its source a training episode shows: some of its classes, and a few images of each.

With one image of each class an episode is pure recall. A curriculum begins there: see `gpicl_jax/training/curriculum.py`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpicl_jax.tasks.randomness import random_words
from gpicl_jax.tasks.sources.base import Examples

_SCOPE = 0x73636F70  # far from the few keys that tasks and episodes split theirs into


class Scope(NamedTuple):
    """Limits of an episode, traced numbers. With `classes` = C and `images` = L or more an episode is as its source draws it.

    Attributes:
      classes: k, active classes. Labels are still spread over all C outputs by the task's permutation.
      images: r, different images of a class.
    """

    classes: jax.Array
    images: jax.Array


def is_whole(scope: Scope, num_labels: int, length: int) -> jax.Array:
    """Returns whether `scope` leaves episodes of `length` as their source draws them."""
    return (scope.classes >= num_labels) & (scope.images >= length)


def within(scope: Scope, examples: Examples, num_labels: int, key: jax.Array) -> Examples:
    """Returns an episode of those examples that `scope` allows, each row drawn from them with replacement.

    Allowed are the first k classes of the episode, in the order of their first examples, and the first r examples of each. So
    they differ from episode to episode, and any source will do.

    Args:
      examples: an episode as a source draws it.
      num_labels: labels of the task.
      key: key of the episode.

    Example:
      >>> labels_L = jnp.array([2, 0, 2, 1, 0, 1])
      >>> drawn = Examples(jnp.arange(6.0)[:, None], labels_L, jnp.float32(0), jnp.float32(1))
      >>> recall = within(Scope(2, 1), drawn, 3, jax.random.key(0))
      >>> sorted(set(zip(recall.labels_L.tolist(), recall.pixels_LX[:, 0].tolist())))
      [(0, 1.0), (2, 0.0)]
      >>> within(Scope(3, 6), drawn, 3, jax.random.key(0)).labels_L.tolist()
      [2, 0, 2, 1, 0, 1]
    """
    length = len(examples.labels_L)
    is_class_LC = examples.labels_L[:, None] == jnp.arange(num_labels)[None]
    number_L = jnp.where(is_class_LC, is_class_LC.cumsum(axis=0), 0).sum(axis=1)  # 1 for the first example of its class
    first_C = jnp.where(is_class_LC.any(axis=0), is_class_LC.argmax(axis=0), length)
    rank_L = jnp.argsort(jnp.argsort(first_C))[examples.labels_L]
    allowed_L = (rank_L < scope.classes) & (number_L <= scope.images)
    words_L = random_words(jax.random.fold_in(key, _SCOPE), (length,))
    drawn_L = jnp.argsort(~allowed_L, stable=True)[words_L % allowed_L.sum(dtype=jnp.uint32)]
    rows_L = jnp.where(is_whole(scope, num_labels, length), jnp.arange(length), drawn_L)
    return examples._replace(pixels_LX=examples.pixels_LX[rows_L], labels_L=examples.labels_L[rows_L])
