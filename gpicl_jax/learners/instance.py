"""The instance learner: a network that sees each example alone, trained over many tasks; it cannot learn in context."""

import dataclasses

import jax
import jax.numpy as jnp

from gpicl_jax.learners.base import Learner, Params, checked_logits
from gpicl_jax.models.base import RowModel
from gpicl_jax.registry import register
from gpicl_jax.tasks.episode import Episode


@register("instance")
@dataclasses.dataclass(frozen=True)
class Instance(Learner):
    """Row i is predicted from x_i alone: the paper's MLP, which can memorise tasks and nothing else.

    Attributes:
      num_features: X.

    Example:
      >>> from gpicl_jax.models.mlp import MLP
      >>> learner = Instance(MLP(num_classes=10, width=16), 64)
      >>> episode = Episode(jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32), jnp.int32(20))
      >>> learner.predict(learner.init(jax.random.key(0)), episode, key=jax.random.key(1)).shape
      (20, 10)
    """

    model: RowModel
    num_features: int

    takes = RowModel

    def init(self, key: jax.Array) -> Params:
        return self.model.init(key, jnp.zeros((1, self.num_features)))["params"]

    def predict(self, params: Params, episode: Episode, *, key: jax.Array) -> jax.Array:
        del key  # nothing random in the forward pass
        logits_LC = self.model.apply({"params": params}, episode.x_LX)
        return checked_logits(self.model, logits_LC, len(episode.y_L))

    def state_size(self, length: int) -> int:
        return 0
