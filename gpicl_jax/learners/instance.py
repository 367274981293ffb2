"""The instance learner: a network that sees each example alone, trained over many tasks. It cannot learn in context."""

import dataclasses

import jax

from gpicl_jax.learners.base import OnePass
from gpicl_jax.models.base import RowModel
from gpicl_jax.registry import register
from gpicl_jax.tasks.episode import Episode


@register("instance")
@dataclasses.dataclass(frozen=True)
class Instance(OnePass):
    """A learner that predicts row i from x_i alone: the paper's MLP, which can only memorise tasks.

    Example:
      >>> import jax.numpy as jnp
      >>> from gpicl_jax.models.mlp import MLP
      >>> learner = Instance(MLP(num_classes=10, width=16), num_features=64)
      >>> episode = Episode(jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32), jnp.int32(20))
      >>> learner.predict(learner.init(jax.random.key(0)), episode, key=jax.random.key(1)).shape
      (20, 10)
    """

    takes = RowModel

    def inputs(self, episode: Episode) -> tuple[jax.Array, ...]:
        return (episode.x_LX,)
