"""In-context learners: one forward pass over the episode is the whole learning algorithm."""

import dataclasses

import jax
import jax.numpy as jnp

from gpicl_jax.learners.base import Learner, Params, checked_logits
from gpicl_jax.models.base import SequenceModel
from gpicl_jax.registry import register
from gpicl_jax.tasks.episode import Episode


@register("in_context")
@dataclasses.dataclass(frozen=True)
class InContext(Learner):
    """A sequence model as a learner: J = E_D [Σ_j l(f(D_{1:j−1}, x_j), y_j)] (arXiv 2212.04458, equation 2), as a mean.

    Attributes:
      num_features: X.
      length: L of the episodes that `init` traces with.

    Example:
      >>> from gpicl_jax.models.transformer import Transformer
      >>> learner = InContext(Transformer(num_classes=10, width=16, num_layers=1, max_length=20), 64, 20)
      >>> params = learner.init(jax.random.key(0))
      >>> episode = Episode(jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32), jnp.int32(20))
      >>> learner.predict(params, episode, key=jax.random.key(1)).shape
      (20, 10)
    """

    model: SequenceModel
    num_features: int
    length: int

    takes = SequenceModel

    def init(self, key: jax.Array) -> Params:
        x_LX, y_L = jnp.zeros((self.length, self.num_features)), jnp.zeros(self.length, jnp.int32)
        return self.model.init(key, x_LX, y_L)["params"]

    def predict(self, params: Params, episode: Episode, *, key: jax.Array) -> jax.Array:
        del key  # nothing random in the forward pass
        logits_LC = self.model.apply({"params": params}, episode.x_LX, episode.y_L)
        return checked_logits(self.model, logits_LC, len(episode.y_L))

    def state_size(self, length: int) -> int:
        return self.model.state_size(self.num_features, length)
