"""The paper's task distribution: D = {(A x_i, ρ(y_i))}, made on the fly and never stored (arXiv 2212.04458, section 3).

Task i of a finite set is recomputed from `fold_in(root, i)`. A task of an infinite set comes from a fresh key. All randomness
is a function of keys, so a task is the same alone, in any batch, and on any number of devices.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.hyper import Hyper
from gpicl_jax.sections import GRAM
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.episode import Episode
from gpicl_jax.tasks.projection import (
    ACCELERATOR_BYTES,
    CPU_BYTES,
    MOST_INTEGER_FEATURES,
    Projection,
    draw_projection,
    project,
    tasks_at_once,
)
from gpicl_jax.tasks.randomness import random_normal, random_uniform, random_words
from gpicl_jax.tasks.scope import Scope, within
from gpicl_jax.tasks.sources.base import Drawing, Source

# A user's own split(key(seed), n) is fold_in(key(seed), 0 … n − 1): roots lie where no such number comes.
_FAR = 0x67706963
_CLUTTER = 0x636C7574  # far from the few keys that tasks and episodes split theirs into
_SCALES = 0x7363616C
_SCALE_IMAGES = 16
_STREAMS = ("init", "train_tasks", "train", "validation", "test")


def stream(seed: jax.Array, name: str) -> jax.Array:
    """Returns the root key of one use of randomness. Uses with different names never share a key.

    Args:
      seed: integer, may be traced.
      name: `init` (weights), `train_tasks` (the finite task set), `train` (steps), `validation` or `test` (episodes).
    """
    return jax.random.fold_in(jax.random.key(seed), _FAR + _STREAMS.index(name))


class Task(NamedTuple):
    """A task.

    Attributes:
      projection: A.
      clutter: weight w of the other image that is added to each image, float32, or None.
      scale_X: s, float32 [X], scales of the features before projection, or None.
      permutation_C: ρ, int32 [C], of the labels.
      source_key: key of what the task draws from its source: some of many classes, random points, one of several sets.
    """

    projection: Projection
    clutter: jax.Array | None
    scale_X: jax.Array | None
    permutation_C: jax.Array
    source_key: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskDistribution:
    """Tasks over a source of images.

    Attributes:
      length, classes_per_task, balanced, num_context: see `Drawing`.
      infinite: whether every step draws new tasks. Else task ids are below `hyper.num_tasks`.
      entries: law of A. `normal` and `integer` make matrices. `gram` only draws the Gram matrix of A x_1 … A x_L, for tasks
        that are used once and learners to which rotations make no difference (see `gpicl_jax/tasks/projection.py`). `identity`
        leaves out the projection (A = I), and only permutes labels.
      clutter: largest weight of other images. An example of a task is x + w x', where x' is an image drawn in the same way and
        w = u² · clutter, u uniform in [0, 1]. So neighbours are often of other classes. 0: w = 0, as in the paper. In a `Scope`
        x' is any image, so that a repeated x is another example each time.
      feature_scales: largest spread σ of random scales of the features. A task is x → A diag(s) x with log s = σ u z, u uniform
        in [0, 1] and z a random combination of 16 images, of mean square 1. So tasks have geometries that the images do not
        have, and neighbouring pixels have similar scales. 0: s = 1, as in the paper.
      curriculum: whether meta-training draws its episodes within a `Scope`.

    Raises:
      UserError: the source cannot fill an episode, `gram` for a finite set of tasks, `integer` for too many features.

    Example:
      >>> from gpicl_jax.tasks.sources.images import load
      >>> tasks = TaskDistribution(load("digits", "train"), length=20)
      >>> task_keys_T = jax.random.split(jax.random.key(0), 3)
      >>> sequence_keys_TS = jax.random.split(jax.random.key(1), (3, 2))
      >>> draw_episodes(tasks, task_keys_T, sequence_keys_TS).x_LX.shape      # T, S, L, X
      (3, 2, 20, 64)
    """

    source: Source
    length: int = dataclasses.field(metadata={"static": True})
    classes_per_task: int = dataclasses.field(default=10, metadata={"static": True})
    balanced: bool = dataclasses.field(default=False, metadata={"static": True})
    num_context: int = dataclasses.field(default=0, metadata={"static": True})
    infinite: bool = dataclasses.field(default=True, metadata={"static": True})
    entries: str = dataclasses.field(default="normal", metadata={"static": True})
    clutter: float = dataclasses.field(default=0.0, metadata={"static": True})
    feature_scales: float = dataclasses.field(default=0.0, metadata={"static": True})
    curriculum: bool = dataclasses.field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.num_context >= self.length:
            raise UserError(
                f"tasks.num_context = {self.num_context} leaves no query of tasks.length = {self.length}; lower it, or give 0"
            )
        self.source.check(self.drawing)
        if self.entries == GRAM and not self.infinite:
            raise UserError(f"tasks.entries = {GRAM!r} needs infinitely many tasks, each used once; give 'normal' or 'integer'")
        if self.entries == "integer" and self.source.num_features > MOST_INTEGER_FEATURES:
            raise UserError(
                f"tasks.entries = 'integer' is exact for up to {MOST_INTEGER_FEATURES:,} features; X = "
                f"{self.source.num_features:,}; give 'normal'"
            )

    @property
    def drawing(self) -> Drawing:
        """The settings by which episodes draw their examples."""
        return Drawing(self.length, self.classes_per_task, self.balanced, self.num_context)

    @property
    def episode_context(self) -> int:
        """`num_context` of an `Episode`: L where it has no queries."""
        return self.num_context or self.length

    @property
    def num_labels(self) -> int:
        """Number of labels that a task uses. Chance is 1 / `num_labels`."""
        return min(self.classes_per_task, self.source.num_classes)


def draw_task(tasks: TaskDistribution, key: jax.Array, permute_labels_prob: jax.Array | float = 1.0) -> Task:
    """Returns the task of `key`, of which A and ρ are functions. With chance 1 − `permute_labels_prob` ρ is the identity."""
    projection_key, label_key, _ = jax.random.split(key, 3)
    num_labels = tasks.classes_per_task
    words_C, coin = jnp.split(random_words(label_key, (num_labels + 1,)), [num_labels])
    # A stable sort of random words: a bijection always, and uniform.
    permutation_C = jnp.argsort(words_C, stable=True).astype(jnp.int32)
    permute = (coin[0] >> 8).astype(jnp.float32) < permute_labels_prob * np.float32(2**24)
    clutter_key = jax.random.fold_in(projection_key, _CLUTTER)
    return Task(
        projection=draw_projection(tasks.entries, projection_key, tasks.source.num_features, tasks.length),
        clutter=tasks.clutter * random_uniform(clutter_key, ()) ** 2 if tasks.clutter else None,
        scale_X=_draw_scales(tasks, projection_key, source_key(key)) if tasks.feature_scales else None,
        permutation_C=jnp.where(permute, permutation_C, jnp.arange(num_labels, dtype=jnp.int32)),
        source_key=source_key(key),
    )


def _draw_scales(tasks: TaskDistribution, key: jax.Array, source_key: jax.Array) -> jax.Array:
    spread_key, weight_key, image_key = jax.random.split(jax.random.fold_in(key, _SCALES), 3)
    few = tasks.drawing._replace(length=min(_SCALE_IMAGES, tasks.length), balanced=False, num_context=0)
    log_X = random_normal(weight_key, (few.length,)) @ tasks.source.draw(source_key, image_key, few).standardised_LX
    log_X *= jax.lax.rsqrt(jnp.maximum((log_X**2).mean(), 1e-12))
    return jnp.exp(tasks.feature_scales * random_uniform(spread_key, ()) * log_X)


def source_key(key: jax.Array) -> jax.Array:
    """Returns the `source_key` of the task of `key`."""
    return jax.random.split(key, 3)[2]


def draw_sequence(tasks: TaskDistribution, task: Task, key: jax.Array, scope: Scope | None = None) -> Episode:
    """Draws an episode of `task`, prequential (num_context = L) unless `tasks` has a context. A `gram` task has only one."""
    examples = tasks.source.draw(task.source_key, key, tasks.drawing)
    if scope is not None:
        examples = within(scope, examples, tasks.num_labels, key)
    pixels_LX, mean, std = examples.pixels_LX, examples.mean, examples.std
    if task.clutter is not None or task.scale_X is not None:
        pixels_LX, mean, std = examples.standardised_LX, jnp.float32(0), jnp.float32(1)
    if task.clutter is not None:
        others = tasks.source.draw(task.source_key, jax.random.fold_in(key, _CLUTTER), tasks.drawing)
        pixels_LX += task.clutter * others.standardised_LX
    if task.scale_X is not None:
        pixels_LX *= task.scale_X[None]
    return Episode(
        x_LX=project(task.projection, pixels_LX, mean, std),
        y_L=task.permutation_C[examples.labels_L],
        num_context=jnp.int32(tasks.episode_context),
    )


def draw_episodes(
    tasks: TaskDistribution,
    task_keys_T: jax.Array,
    sequence_keys_TS: jax.Array,
    permute_labels_prob: jax.Array | float = 1.0,
    scope: Scope | None = None,
) -> Episode:
    """Draws S episodes of each of T tasks, within `scope` if there is one. Every field of the result has leading axes [T, S].

    The S episodes of a task share its matrix. Matrices are made a few at a time, so that memory does not grow with T.

    Raises:
      UserError: several episodes of a task of entries `gram`.
    """
    if tasks.entries == GRAM and sequence_keys_TS.shape[1] > 1:
        raise UserError(
            f"tasks.entries = 'gram' makes one episode of a task, not {sequence_keys_TS.shape[1]}; give 'normal' or 'integer'"
        )

    def draw_one(keys: tuple[jax.Array, jax.Array]) -> Episode:
        task_key, sequence_keys_S = keys
        task = draw_task(tasks, task_key, permute_labels_prob)
        if len(sequence_keys_S) == 1:  # a vmap over one makes XLA's CPU programs up to three times as slow
            return jax.tree.map(lambda leaf: leaf[None], draw_sequence(tasks, task, sequence_keys_S[0], scope))
        return jax.vmap(lambda key: draw_sequence(tasks, task, key, scope))(sequence_keys_S)

    def draw_all(live_bytes: int, *keys: jax.Array) -> Episode:
        at_once = tasks_at_once(tasks.entries, tasks.source.num_features, tasks.length, live_bytes)
        if at_once >= len(task_keys_T):
            return jax.vmap(draw_one)(keys)
        # one at a time is a plain map: a vmap over a single task makes XLA's CPU programs twice as slow
        return jax.lax.map(draw_one, keys, batch_size=at_once if at_once > 1 else None)

    on = {"cpu": functools.partial(draw_all, CPU_BYTES), "default": functools.partial(draw_all, ACCELERATOR_BYTES)}
    return jax.lax.platform_dependent(task_keys_T, sequence_keys_TS, **on)


def draw_task_keys(tasks: TaskDistribution, key: jax.Array, hyper: Hyper, num: int) -> jax.Array:
    """Returns keys [T] of the tasks of one training step: fresh ones, or uniform draws from the finite task set."""
    if tasks.infinite:
        return jax.random.split(key, num)
    ids_T = jax.random.randint(key, (num,), 0, hyper.num_tasks)
    return seen_task_keys(hyper, ids_T)


def seen_task_keys(hyper: Hyper, ids_T: jax.Array) -> jax.Array:
    """Returns keys [T] of the tasks `ids_T` of the finite training set."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(stream(hyper.seed, "train_tasks"), ids_T)


def draw_episode(tasks: TaskDistribution, key: jax.Array, hyper: Hyper) -> Episode:
    """Draws one training episode, as it is at the end of a curriculum: a task, then a sequence of it.

    Example:
      >>> from gpicl_jax.config import Config
      >>> from gpicl_jax.hyper import hyper_from
      >>> from gpicl_jax.tasks.sources.images import load
      >>> tasks = TaskDistribution(load("digits", "train"), length=20)
      >>> draw_episode(tasks, jax.random.key(0), hyper_from(Config())).y_L.shape
      (20,)
    """
    task_key, sequence_key = jax.random.split(key)
    task_keys_T = draw_task_keys(tasks, task_key, hyper, 1)
    task = draw_task(tasks, task_keys_T[0], hyper.permute_labels_prob)
    return draw_sequence(tasks, task, sequence_key)
