"""Which images an episode shows: drawn without replacement, at a cost that does not grow with the dataset."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.data.images import ImageDataset
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.projection import random_words, threefry

_FEISTEL_ROUNDS = 8
_FEWEST = np.uint32(6)


class Drawing(NamedTuple):
    """How episodes draw their examples: static.

    Attributes:
      length: L examples of an episode.
      classes_per_task: labels of a task; a set with more classes lends a task so many, one with fewer all of its own.
      balanced: whether an episode shows every class of its task equally often; else examples are iid, as in the paper.
      num_context: examples before the queries; where balanced, both show every class equally often. 0: there are no queries.
    """

    length: int
    classes_per_task: int
    balanced: bool
    num_context: int = 0


class Examples(NamedTuple):
    """The examples of one episode before projection, and the numbers that standardise them.

    Attributes:
      pixels_LX: uint8 or float32 [L, X].
      labels_L: int32 [L], 0 … number of classes of the task − 1, before the task's permutation.
      mean, std: float32 scalars.
    """

    pixels_LX: jax.Array
    labels_L: jax.Array
    mean: jax.Array
    std: jax.Array


@functools.singledispatch
def draw_examples(source: Any, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> Examples:
    """Examples of one episode from a source of images: an `ImageDataset`, `RandomPoints` or a `Mixture`.

    Args:
      source: where examples come from.
      task_key: of what all episodes of a task share, e.g. which classes.
      key: of this episode.
      drawing: see there.
    """
    raise TypeError(f"no way to draw examples from a {type(source).__name__}")


@functools.singledispatch
def check_source(source: Any, drawing: Drawing) -> None:
    """Raises `UserError` where `source` cannot fill an episode."""


@draw_examples.register
def _(dataset: ImageDataset, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> Examples:
    indices_L, labels_L = draw_images(dataset, task_key, key, drawing)
    return Examples(dataset.images_NX[indices_L], labels_L, dataset.mean, dataset.std)


def draw_images(dataset: ImageDataset, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> tuple[jax.Array, jax.Array]:
    """Rows of `dataset` that an episode shows, all different, and their labels within the task: int32 [L] each."""
    num_classes, length = min(dataset.num_classes, drawing.classes_per_task), drawing.length
    if num_classes == dataset.num_classes and not drawing.balanced:
        indices_L = draw_image_indices(key, dataset.num_images, length)
        return indices_L, dataset.labels_N[indices_L]
    classes_K = draw_classes(dataset, task_key, num_classes)
    counts_K = dataset.counts_C[classes_K]
    starts_K = (jnp.cumsum(dataset.counts_C) - dataset.counts_C)[classes_K]
    if not drawing.balanced:
        ends_K = jnp.cumsum(counts_K)
        places_L = draw_image_indices(key, ends_K[-1], length)
        labels_L = jnp.searchsorted(ends_K, places_L, side="right").astype(jnp.int32)
        return (starts_K + counts_K - ends_K)[labels_L] + places_L, labels_L
    each = length // num_classes
    order_key, *class_keys = jax.random.split(key, num_classes + 1)
    places_Ke = jax.vmap(lambda key, count: draw_image_indices(key, count, each))(jnp.stack(class_keys), counts_K)
    words_L = random_words(order_key, (length,))
    labels_L = jnp.repeat(jnp.arange(num_classes, dtype=jnp.int32), each)
    if drawing.num_context:  # the first of every class before the others
        is_query_L = np.tile(np.arange(each) >= drawing.num_context // num_classes, num_classes)
        words_L = (words_L >> 1) | jnp.where(is_query_L, np.uint32(2**31), np.uint32(0))
    order_L = jnp.argsort(words_L, stable=True)
    labels_L = labels_L[order_L]
    return (starts_K[:, None] + places_Ke).reshape(-1)[order_L], labels_L


def draw_classes(dataset: ImageDataset, task_key: jax.Array, num_classes: int) -> jax.Array:
    """The classes of a task in ascending order, int32 [K]: all of the set's, or a uniform draw of those with images.

    Of classes that are turns of one character, a task has one at most: it draws characters, then a turn of each.
    """
    if num_classes == dataset.num_classes:
        return jnp.arange(num_classes)
    present_Cr = dataset.present_P.reshape(-1, dataset.rotations)
    words_C, words_K = jnp.split(random_words(task_key, (len(present_Cr) + num_classes,)), [len(present_Cr)])
    order_C = jnp.argsort(words_C, stable=True)
    return jnp.sort(present_Cr[order_C[:num_classes], words_K % dataset.rotations])


@check_source.register
def _(dataset: ImageDataset, drawing: Drawing) -> None:
    length, classes_per_task, balanced, num_context = drawing
    name, num_classes = f"'{dataset.name}'", min(dataset.num_classes, classes_per_task)
    if isinstance(dataset.counts_C, jax.core.Tracer) or not isinstance(dataset.counts_C, jax.Array):
        return  # JAX rebuilds a TaskDistribution from placeholders too
    counts_C = np.sort(np.asarray(dataset.counts_C))
    if num_classes < dataset.num_classes:
        counts_C = counts_C[counts_C > 0]
    present = int((counts_C > 0).sum()) // dataset.rotations
    chooses = num_classes < dataset.num_classes or dataset.rotations > 1  # else a class without images is passed over
    needed = classes_per_task if num_context else num_classes
    if present < needed and (chooses or num_context):
        turns = "" if dataset.rotations == 1 else ", each turn of which counts as the same one"
        raise UserError(f"{name} has images of {present} classes{turns}; lower tasks.classes_per_task = {classes_per_task}")
    if balanced and length % num_classes:
        raise UserError(
            f"tasks.length = {length} is not a multiple of {num_classes} classes, as tasks.balanced = true needs; change it"
        )
    if balanced and num_context % num_classes:
        raise UserError(
            f"tasks.num_context = {num_context} is not a multiple of {num_classes} classes, as tasks.balanced = true needs; "
            "change it"
        )
    if balanced and counts_C[0] < length // num_classes:
        raise UserError(
            f"{name} has a class of {counts_C[0]} images, but a balanced episode shows {length // num_classes} different ones "
            "of every class; lower tasks.length, or set tasks.balanced = false"
        )
    fewest = int(counts_C[:num_classes].sum())
    if length > fewest:
        many = (
            f"has {fewest} images"
            if num_classes == dataset.num_classes
            else f"may give a task no more than {fewest} images of {num_classes} classes"
        )
        raise UserError(
            f"tasks.length = {length}, but {name} {many}, and an episode shows none twice; "
            "give more images, or train with a smaller tasks.length"
        )


def draw_image_indices(key: jax.Array, num_images: int | jax.Array, length: int) -> jax.Array:
    """`length` different numbers below `num_images`, int32 [L], at a cost that does not depend on `num_images`.

    A keyed bijection of {0 … N−1}, evaluated at 0 … L−1: an unbalanced Feistel network on a × b ≥ N (a, b ≈ √N), whose
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
