"""In-context learners: one forward pass over the episode is the whole learning algorithm."""

import dataclasses

import jax

from gpicl_jax.learners.base import OnePass
from gpicl_jax.models.base import SequenceModel
from gpicl_jax.registry import register
from gpicl_jax.tasks.episode import Episode


@register("in_context")
@dataclasses.dataclass(frozen=True)
class InContext(OnePass):
    """A sequence model as a learner: J = E_D [Σ_j l(f(D_{1:j−1}, x_j), y_j)] (arXiv 2212.04458, equation 2), as a mean.

    Example:
      >>> import jax.numpy as jnp
      >>> from gpicl_jax.models.transformer import Transformer
      >>> learner = InContext(Transformer(num_classes=10, width=16, num_layers=1, max_length=20), 64, 20)
      >>> params = learner.init(jax.random.key(0))
      >>> episode = Episode(jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32), jnp.int32(20))
      >>> learner.predict(params, episode, key=jax.random.key(1)).shape
      (20, 10)
    """

    takes = SequenceModel

    def inputs(self, episode: Episode) -> tuple[jax.Array, ...]:
        return episode.x_LX, episode.y_L
