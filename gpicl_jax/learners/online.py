"""Online learners: a network predicts an example, then takes a gradient step on it, along the whole episode."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from gpicl_jax.learners.base import Learner, Metrics, Params
from gpicl_jax.learners.instance import Instance
from gpicl_jax.tasks.episode import Episode


@dataclasses.dataclass(frozen=True)
class Online(Learner):
    """ŷ_i = f(θ_i, x_i), then θ_{i+1} = θ_i − step(∇ l(f(θ_i, x_i), y_i)); what differs is where θ_0 comes from.

    | `start` | θ_0 | row of the table |
    |---|---|---|
    | `fresh` | drawn anew for every episode; nothing is meta-learned | `sgd`, the paper's SGD |
    | `pretrained` | trained over many tasks as an `Instance` learner, without the online pass | `finetune` |
    | `meta_learned` | trained through the whole online pass by `jax.grad` | `maml_online`, the paper's MAML |

    The mechanism is that of the authors' code (google/learned_optimization, folder research/data_driven, commit 32186aa).
    Through Adam it can be differentiated only with eps_root > 0: the root's derivative at 0 is infinite.

    Attributes:
      model: a Flax module, `model(x_LX) -> logits_LC`.
      num_features: X.
      optimizer: any of Optax.
      start: see the table.
      remat: recompute each step in the backward pass; its weights and optimiser state are kept all the same.

    Example:
      >>> from gpicl_jax.models import MLP
      >>> learner = Online(MLP(num_classes=10, num_layers=0), 64, optax.adam(1e-3), start="fresh")
      >>> episode = Episode(jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32), jnp.int32(20))
      >>> learner.init(jax.random.key(0)), learner.predict({}, episode, key=jax.random.key(1)).shape
      ({}, (20, 10))
    """

    model: nn.Module
    num_features: int
    optimizer: optax.GradientTransformation
    start: str
    remat: bool = True

    @property
    def _instance(self) -> Instance:
        return Instance(self.model, self.num_features)

    def init(self, key: jax.Array) -> Params:
        return {} if self.start == "fresh" else self._instance.init(key)

    def predict(self, params: Params, episode: Episode, *, key: jax.Array) -> jax.Array:
        weights = self._instance.init(key) if self.start == "fresh" else params

        def example_loss(weights: Params, x_X: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits_C = self.model.apply({"params": weights}, x_X[None])[0]
            return optax.softmax_cross_entropy_with_integer_labels(logits_C, y), logits_C

        def predict_then_learn(carry, example):
            x_X, y, is_context = example
            weights, opt_state = carry
            gradient, logits_C = jax.grad(example_loss, has_aux=True)(weights, x_X, y)
            updates, opt_state = self.optimizer.update(gradient, opt_state, weights)
            learned = optax.apply_updates(weights, updates), opt_state
            return jax.tree.map(lambda new, old: jnp.where(is_context, new, old), learned, carry), logits_C

        step = jax.checkpoint(predict_then_learn, prevent_cse=False) if self.remat else predict_then_learn
        is_context_L = jnp.arange(len(episode.y_L)) < episode.num_context
        carry = weights, self.optimizer.init(weights)
        return jax.lax.scan(step, carry, (episode.x_LX, episode.y_L, is_context_L))[1]

    def loss(self, params: Params, episode: Episode, *, key: jax.Array) -> tuple[jax.Array, Metrics]:
        if self.start == "pretrained":
            return self._instance.loss(params, episode, key=key)
        return super().loss(params, episode, key=key)

    def state_size(self, length: int) -> int:
        """Weights and the optimiser's state."""
        weights = jax.eval_shape(self._instance.init, jax.random.key(0))
        leaves = jax.tree.leaves((weights, jax.eval_shape(self.optimizer.init, weights)))
        return sum(math.prod(leaf.shape) for leaf in leaves)
