"""The one protocol: a learner predicts the rows of an episode; one trainer and one evaluator serve every learner."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from gpicl_jax.tasks.episode import Episode

Params = Any


class Learner(Protocol):
    """A learning algorithm over episodes. All methods are for one episode; `vmap` outside adds the batch.

    Attributes:
      transductive: whether queries may also see each other's x (batch statistics, as in Finn's MAML).
    """

    transductive: bool = False

    def init(self, key: jax.Array) -> Params:
        """Meta-parameters; {} where nothing is meta-learned."""
        ...

    def predict(self, params: Params, episode: Episode, *, key: jax.Array) -> jax.Array:
        """Logits, float32 [L, C]; what a row may depend on is said in `Episode`."""
        ...

    def scored_rows(self, episode: Episode) -> jax.Array:
        """bool [L]: the rows that this learner predicts at all."""
        ...

    def loss(self, params: Params, episode: Episode, *, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The meta-objective of one episode, a scalar, and metrics: `accuracy_L`, float32 [L]."""
        ...


def score_rows(logits_LC: jax.Array, y_L: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy (nats) and 0/1 accuracy of every row, float32 [L] each.

    Example:
      >>> loss_L, accuracy_L = score_rows(jnp.zeros((3, 10)), jnp.array([0, 1, 2]))
      >>> round(float(loss_L[0]), 3), accuracy_L.tolist()
      (2.303, [1.0, 0.0, 0.0])
    """
    loss_L = optax.softmax_cross_entropy_with_integer_labels(logits_LC, y_L)
    return loss_L, (logits_LC.argmax(axis=-1) == y_L).astype(jnp.float32)
