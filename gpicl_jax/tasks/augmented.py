"""The paper's task distribution: D = {(A x_i, ρ(y_i))}, made on the fly and never stored (arXiv 2212.04458, section 3).

Task i of a finite set *is* `fold_in(root, i)`; a task of an infinite set is a fresh key. Everything random is a
function of keys alone, so a task is the same alone, in any batch, on any number of devices.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.config import Hyper, UserError
from gpicl_jax.data.images import ImageDataset
from gpicl_jax.tasks.episode import Episode
from gpicl_jax.tasks.projection import matrices_at_once, project, projection_matrix, random_words, threefry

_FEISTEL_ROUNDS = 8
_STREAMS = ("init", "train_tasks", "train", "validation", "test")


def stream(seed: jax.Array, name: str) -> jax.Array:
    """The root key of one use of randomness; uses with different names never share a key.

    Args:
      seed: integer, may be traced.
      name: `init` (weights), `train_tasks` (the finite task set), `train` (steps), `validation` or `test` (episodes).
    """
    return jax.random.fold_in(jax.random.key(seed), _STREAMS.index(name))


class Task(NamedTuple):
    """A task: its projection A, float32 [X, X], and its permutation ρ of the labels, int32 [C]."""

    projection_XX: jax.Array
    permutation_C: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskDistribution:
    """Tasks over one base dataset.

    Attributes:
      dataset: where the images come from.
      length: examples of an episode, L ≤ number of images (drawn without replacement).
      infinite: whether every step draws tasks that were never seen before; else task ids below `hyper.num_tasks`.
      identity: whether the projection is left out (A = I): the labels alone are permuted.

    Raises:
      UserError: an episode is longer than the dataset.

    Example:
      >>> from gpicl_jax.data import load
      >>> tasks = TaskDistribution(load("digits", "train"), length=20)
      >>> task_keys_T = jax.random.split(jax.random.key(0), 3)
      >>> sequence_keys_TS = jax.random.split(jax.random.key(1), (3, 2))
      >>> draw_episodes(tasks, task_keys_T, sequence_keys_TS).x_LX.shape      # T, S, L, X
      (3, 2, 20, 64)
    """

    dataset: ImageDataset
    length: int = dataclasses.field(metadata={"static": True})
    infinite: bool = dataclasses.field(default=True, metadata={"static": True})
    identity: bool = dataclasses.field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        # JAX rebuilds this from placeholders too, which have no shape
        shape = getattr(getattr(self.dataset, "images_NX", None), "shape", None)
        if shape and self.length > shape[0]:
            raise UserError(
                f"tasks.length = {self.length}, but a split of '{self.dataset.name}' has {shape[0]} images "
                "and an episode shows none twice; lower tasks.length"
            )


def draw_task(tasks: TaskDistribution, key: jax.Array, permute_labels_prob: jax.Array | float = 1.0) -> Task:
    """The task that `key` stands for: A and ρ as functions of the key; one coin decides whether ρ is the identity."""
    projection_key, label_key = jax.random.split(key)
    num_features, num_classes = tasks.dataset.num_features, tasks.dataset.num_classes
    words_C, coin = jnp.split(random_words(label_key, (num_classes + 1,)), [num_classes])
    # A stable sort of random words: a bijection always, and uniform.
    permutation_C = jnp.argsort(words_C, stable=True).astype(jnp.int32)
    permute = (coin[0] >> 8).astype(jnp.float32) < permute_labels_prob * np.float32(2**24)
    return Task(
        projection_XX=jnp.eye(num_features) if tasks.identity else projection_matrix(projection_key, num_features),
        permutation_C=jnp.where(permute, permutation_C, jnp.arange(num_classes, dtype=jnp.int32)),
    )


def draw_image_indices(key: jax.Array, num_images: int, length: int) -> jax.Array:
    """`length` different numbers below `num_images`, int32 [L], at a cost that does not depend on `num_images`.

    A keyed bijection of {0 … N−1}, evaluated at 0 … L−1: an unbalanced Feistel network on a × b ≥ N (a, b ≈ √N), whose
    values ≥ N are sent through it again ("cycle walking": Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    rows = math.isqrt(num_images - 1) + 1
    columns = -(-num_images // rows)

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


def draw_sequence(tasks: TaskDistribution, task: Task, key: jax.Array) -> Episode:
    """An episode of `task`: iid classes, different images, prequential (num_context = L)."""
    dataset = tasks.dataset
    indices_L = draw_image_indices(key, dataset.num_images, tasks.length)
    pixels_LX = dataset.images_NX[indices_L]
    return Episode(
        x_LX=project(task.projection_XX, pixels_LX, dataset.mean, dataset.std),
        y_L=task.permutation_C[dataset.labels_N[indices_L]],
        num_context=jnp.int32(tasks.length),
    )


def draw_episodes(
    tasks: TaskDistribution,
    task_keys_T: jax.Array,
    sequence_keys_TS: jax.Array,
    permute_labels_prob: jax.Array | float = 1.0,
) -> Episode:
    """S episodes of each of T tasks; every field of the result has leading axes [T, S].

    The S episodes of a task share its matrix. Matrices are made a few at a time, so that memory does not grow with T.
    """

    def draw_one(keys: tuple[jax.Array, jax.Array]) -> Episode:
        task_key, sequence_keys_S = keys
        task = draw_task(tasks, task_key, permute_labels_prob)
        return jax.vmap(draw_sequence, in_axes=(None, None, 0))(tasks, task, sequence_keys_S)

    at_once = matrices_at_once(tasks.dataset.num_features)
    if at_once >= len(task_keys_T):
        return jax.vmap(draw_one)((task_keys_T, sequence_keys_TS))
    return jax.lax.map(draw_one, (task_keys_T, sequence_keys_TS), batch_size=at_once)


def draw_task_keys(tasks: TaskDistribution, key: jax.Array, hyper: Hyper, num: int) -> jax.Array:
    """Keys [T] of the tasks of one training step: fresh ones, or uniform draws from the finite task set."""
    if tasks.infinite:
        return jax.random.split(key, num)
    ids_T = jax.random.randint(key, (num,), 0, hyper.num_tasks)
    return seen_task_keys(hyper, ids_T)


def seen_task_keys(hyper: Hyper, ids_T: jax.Array) -> jax.Array:
    """Keys [T] of the tasks `ids_T` of the finite training set."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(stream(hyper.seed, "train_tasks"), ids_T)


def draw_episode(tasks: TaskDistribution, key: jax.Array, hyper: Hyper) -> Episode:
    """One training episode: a task, then a sequence of it.

    Example:
      >>> from gpicl_jax.config import Config, hyper_from
      >>> from gpicl_jax.data import load
      >>> tasks = TaskDistribution(load("digits", "train"), length=20)
      >>> draw_episode(tasks, jax.random.key(0), hyper_from(Config())).y_L.shape
      (20,)
    """
    task_key, sequence_key = jax.random.split(key)
    task_keys_T = draw_task_keys(tasks, task_key, hyper, 1)
    task = draw_task(tasks, task_keys_T[0], hyper.permute_labels_prob)
    return draw_sequence(tasks, task, sequence_key)
