"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017, arXiv 1703.03400)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.learners.base import Params, score_rows
from gpicl_jax.learners.context_query import FromContext
from gpicl_jax.learners.instance import Instance
from gpicl_jax.tasks.episode import Episode


@dataclasses.dataclass(frozen=True)
class Maml(FromContext):
    """θ ← θ − α ∇_θ (mean cross-entropy of the context), K times from the meta-learned weights; then queries are predicted.

    The meta-gradient of the queries' loss goes through all K steps (paper, equation 1 and algorithm 2). The context of a
    meta-training episode is at least one example, and leaves at least 20 queries.

    Attributes:
      model: a Flax module, `model(x_LX) -> logits_LC`.
      num_features: X.
      inner_rate: α.
      inner_steps: K; 0 is no adaptation.
      first_order: whether the inner gradient counts as a constant (first-order MAML, the paper's section 5.2).
      remat: recompute each inner step in the backward pass: memory is then K copies of the weights and one step.

    Example:
      >>> from gpicl_jax.models import MLP
      >>> learner = Maml(MLP(num_classes=10, width=16), 64, inner_rate=0.1, inner_steps=5)
      >>> episode = Episode(jnp.zeros((40, 64)), jnp.zeros(40, jnp.int32), jnp.int32(20))
      >>> learner.predict(learner.init(jax.random.key(0)), episode, key=jax.random.key(1)).shape
      (40, 10)
    """

    model: nn.Module
    num_features: int
    inner_rate: float
    inner_steps: int
    first_order: bool = False
    remat: bool = True

    fewest_context = 1
    fewest_queries = 20

    def init(self, key: jax.Array) -> Params:
        return Instance(self.model, self.num_features).init(key)

    def adapt(self, params: Params, episode: Episode) -> Params:
        """The weights after K steps on the context."""
        is_context_L = (jnp.arange(len(episode.y_L)) < episode.num_context).astype(jnp.float32)

        def context_loss(weights: Params) -> jax.Array:
            loss_L, _ = score_rows(self.model.apply({"params": weights}, episode.x_LX), episode.y_L)
            return (loss_L * is_context_L).sum() / jnp.maximum(is_context_L.sum(), 1.0)

        def inner_step(weights: Params, _: None) -> tuple[Params, None]:
            gradient = jax.grad(context_loss)(weights)
            if self.first_order:
                gradient = jax.lax.stop_gradient(gradient)
            return jax.tree.map(lambda weight, slope: weight - self.inner_rate * slope, weights, gradient), None

        step = jax.checkpoint(inner_step, prevent_cse=False) if self.remat else inner_step
        return jax.lax.scan(step, params, length=self.inner_steps)[0]

    def predict(self, params: Params, episode: Episode, *, key: jax.Array) -> jax.Array:
        del key  # nothing random in it
        return self.model.apply({"params": self.adapt(params, episode)}, episode.x_LX)

    def state_size(self, length: int) -> int:
        """The context itself: inputs and labels."""
        return length * (self.num_features + 1)
