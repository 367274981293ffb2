"""Recall first: a curriculum whose training episodes show few classes and few images, and more as soon as accuracy allows.

A rung is a pair (k, r) of `Scope`: active classes, and different images of a class. From the pair that `[tasks]` gives, k rises
by one at a time to C, and then r doubles until an episode is as its source draws it. Then training tasks are the paper's.
Validation and test tasks always are. The rule is part of the compiled step, and its state part of the checkpoint.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpicl_jax.hyper import Hyper
from gpicl_jax.tasks import TaskDistribution
from gpicl_jax.tasks.scope import Scope, is_whole

_DECAY = 0.9  # of the running mean of the accuracy
_MOST_DOUBLINGS = 14


class Climb(NamedTuple):
    """Where a curriculum stands.

    Attributes:
      rung: int32, rungs above the first one.
      accuracy: float32, running mean over the steps on this rung, from 0, of accuracy corrected for chance.
    """

    rung: jax.Array
    accuracy: jax.Array


def first_rung() -> Climb:
    """Returns the state before the first step."""
    return Climb(jnp.int32(0), jnp.float32(0))


def scope_of(rung: jax.Array, tasks: TaskDistribution, hyper: Hyper) -> Scope:
    """Returns the scope of training episodes at `rung`. It is the whole episode from the last rung on.

    Example:
      >>> from gpicl_jax.build import make_tasks
      >>> from gpicl_jax.config import load_config
      >>> from gpicl_jax.hyper import hyper_from
      >>> config = load_config("digits", ("--tasks.active_classes=8", "--tasks.images_per_class=2", "--tasks.length=50"))
      >>> tasks, hyper = make_tasks(config, "train"), hyper_from(config)
      >>> [tuple(map(int, scope_of(jnp.int32(rung), tasks, hyper))) for rung in range(6)]
      [(8, 2), (9, 2), (10, 2), (10, 4), (10, 50), (10, 50)]
    """
    most = tasks.num_labels
    first = jnp.minimum(hyper.active_classes, most)
    doublings = jnp.clip(first + rung - most, 0, _MOST_DOUBLINGS)
    images = jnp.minimum(hyper.images_per_class, tasks.length) << doublings
    # r images of every class would be as many as the episode has: a rung more would change next to nothing
    whole = images >= -(-tasks.length // most)
    return Scope(jnp.minimum(first + rung, most), jnp.where(whole, tasks.length, images))


def climbed(climb: Climb, accuracy: jax.Array, tasks: TaskDistribution, hyper: Hyper) -> Climb:
    """Returns the state after a step: a rung higher where the running mean of (a − 1/k) / (1 − 1/k) is above `rise_at`.

    Args:
      accuracy: a, of the step's episodes over their last tenth of examples.

    Example:
      >>> from gpicl_jax.build import make_tasks
      >>> from gpicl_jax.config import load_config
      >>> from gpicl_jax.hyper import hyper_from
      >>> config = load_config("digits", ("--tasks.active_classes=8", "--tasks.images_per_class=2"))
      >>> tasks, hyper = make_tasks(config, "train"), hyper_from(config)
      >>> climb, rungs = first_rung(), []
      >>> for step in range(30):
      ...     climb = climbed(climb, jnp.float32(0.9), tasks, hyper)
      ...     rungs.append(int(climb.rung))
      >>> rungs[6], rungs[7], rungs[15], rungs[23]
      (0, 1, 2, 3)
    """
    scope = scope_of(climb.rung, tasks, hyper)
    chance = 1 / scope.classes.astype(jnp.float32)
    mean = _DECAY * climb.accuracy + (1 - _DECAY) * (accuracy - chance) / (1 - chance)
    rises = (mean > hyper.rise_at) & ~is_whole(scope, tasks.num_labels, tasks.length)
    return Climb(climb.rung + rises, jnp.where(rises, 0.0, mean))
