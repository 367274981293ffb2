"""The causal Transformer of GPICL, and the one that knows a context and queries but no order; each for one episode."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.models.base import ContextModel, SequenceModel
from gpicl_jax.models.blocks import SMEAR_KEYS, AttentionModel, learned_positions
from gpicl_jax.models.layers import fan_in_normal, shift_down, shifted_tokens
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError, setting


@register("transformer")
class Transformer(AttentionModel, SequenceModel):
    """Maps an episode to logits: row i sees x_0 … x_i and y_0 … y_{i−1}.

    The layout `shifted` has the tokens [x_i, onehot y_{i−1}] (the paper). The layout `paired` has the tokens
    [x_i, x_{i−1}, onehot y_{i−1}], each of which holds a whole labelled example.

    Attributes:
      max_length: of an episode; a longer one raises ValueError where positions are learned.

    Example:
      >>> model = Transformer(num_classes=10, width=16, num_layers=1, max_length=20)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32)
      >>> params = model.init(jax.random.key(0), x_LX, y_L)
      >>> model.apply(params, x_LX, y_L).shape
      (20, 10)
    """

    max_length: int = 100
    layout: str = setting("shifted", "what a token holds", choices=("shifted", "paired"))
    smear_keys: bool = setting(False, SMEAR_KEYS)
    positions: str = setting("learned", "how it knows the order of its tokens", choices=("learned", "rope", "alibi"))

    @classmethod
    def check(cls, config: Any) -> None:
        if config.model.positions == "rope" and config.model.head_size % 2:
            raise UserError(
                f"model.positions = 'rope' turns pairs of numbers; model.head_size = {config.model.head_size} is odd"
            )

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        if self.layout == "paired":
            x_LX = jnp.concatenate([x_LX, shift_down(x_LX)], axis=1)
        tokens_LT = shifted_tokens(x_LX, y_L, self.num_classes, self.label_scale)
        h_LD = nn.Dense(self.width, kernel_init=fan_in_normal, name="embed")(tokens_LT)
        if self.positions == "learned":
            h_LD = h_LD + learned_positions(self, h_LD, self.max_length)
        causal_LL = jnp.tri(len(h_LD), dtype=bool)
        h_LD = self.run_blocks(h_LD, causal_LL, smear_keys=self.smear_keys, positions=self.positions)
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LD)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns the size of the keys and values of `length` examples."""
        return self.keys_and_values(length)


@register("context_query")
class ContextQueryTransformer(AttentionModel, ContextModel):
    """Maps a context and queries to logits; there are no positions (prior-data fitted networks: Müller et al. 2022, arXiv
    2112.10510; Transformer neural processes: Nguyen & Grover 2022, arXiv 2207.04179).

    Rows i < n are the context, tokens [x_i, onehot y_i], and attend to each other both ways; rows i ≥ n are queries, tokens
    [x_i, 0], and attend to the context and to themselves. Permuting the context changes no query's logits.

    Example:
      >>> model = ContextQueryTransformer(num_classes=10, width=16, num_layers=1)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32)
      >>> params = model.init(jax.random.key(0), x_LX, y_L, 15)
      >>> model.apply(params, x_LX, y_L, 15).shape
      (20, 10)
    """

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array, num_context: jax.Array | int) -> jax.Array:
        in_context_L = jnp.arange(len(y_L)) < num_context
        labels_LC = self.label_scale * jax.nn.one_hot(y_L, self.num_classes) * in_context_L[:, None]
        h_LD = nn.Dense(self.width, kernel_init=fan_in_normal, name="embed")(jnp.concatenate([x_LX, labels_LC], axis=1))
        h_LD = self.run_blocks(h_LD, in_context_L[None] | jnp.eye(len(y_L), dtype=bool))
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LD)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns the size of the keys and values of `length` examples."""
        return self.keys_and_values(length)
