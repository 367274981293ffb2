"""The equivariant Transformer with one of its three symmetries taken away; for one episode."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.models.blocks import learned_positions
from gpicl_jax.models.equivariant_transformer import EquivariantTransformer, Geometry, class_streams, geometry
from gpicl_jax.registry import register


@register("equivariant_without_rotations")
class WithoutRotations(EquivariantTransformer):
    """x itself enters the streams, by a linear map, and attention is by content alone: no Gram matrix is made.

    With the matrix go its distances, norms and their units; and x, of X numbers, has to pass through a width of D.

    Example:
      >>> model = WithoutRotations(num_classes=10, width=8, num_layers=1, num_heads=2, head_size=4)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.arange(20) % 10
      >>> model.apply(model.init(jax.random.key(0), x_LX, y_L, 15), x_LX, y_L, 15).shape
      (20, 10)
    """

    any_features = False

    def embed(self, x_LX: jax.Array, label_LC: jax.Array, in_context_L: jax.Array) -> tuple[jax.Array, Geometry | None]:
        zero_L, zero_LL = jnp.zeros_like(x_LX[:, 0]), jnp.zeros((len(x_LX), len(x_LX)), x_LX.dtype)
        inputs_LCI = class_streams(zero_L, zero_LL, label_LC, in_context_L)
        h_LCD = nn.Dense(self.width, dtype=self.dtype, name="embed")(inputs_LCI)
        return h_LCD + nn.Dense(self.width, dtype=self.dtype, name="embed_x")(x_LX)[:, None], None


@register("equivariant_without_label_permutations")
class WithoutLabelPermutations(EquivariantTransformer):
    """An example is one stream, whose embedding holds its label; a linear map of the last stream gives all logits.

    Example:
      >>> model = WithoutLabelPermutations(num_classes=10, width=8, num_layers=1, num_heads=2, head_size=4)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.arange(20) % 10
      >>> model.apply(model.init(jax.random.key(0), x_LX, y_L, 15), x_LX, y_L, 15).shape
      (20, 10)
    """

    def embed(self, x_LX: jax.Array, label_LC: jax.Array, in_context_L: jax.Array) -> tuple[jax.Array, Geometry | None]:
        size_L, distance_LL, cosine_LL = geometry(x_LX, in_context_L)
        inputs_LCI = class_streams(size_L, distance_LL, label_LC, in_context_L)
        of_classes_L1I = inputs_LCI[..., :2].reshape(len(x_LX), 1, -1)  # its label, and the shares of all
        inputs_L1I = jnp.concatenate([of_classes_L1I, inputs_LCI[:, :1, 2:]], axis=-1)
        return nn.Dense(self.width, dtype=self.dtype, name="embed")(inputs_L1I), (distance_LL, cosine_LL)

    def read_out(self, h_LCD: jax.Array) -> jax.Array:
        return nn.Dense(self.num_classes, name="head")(h_LCD[:, 0])

    def state_size(self, num_features: int, length: int) -> int:
        """Returns the size of the inputs of `length` examples, and of the values and keys of all layers."""
        return length * (num_features + self.num_layers * 2 * self.num_heads * self.head_size)


@register("equivariant_without_context_permutations")
class WithoutContextPermutations(EquivariantTransformer):
    """A learned vector for each position is added to the streams: the order of the context may mean something.

    Attributes:
      max_length: of an episode; a longer one raises ValueError.

    Example:
      >>> model = WithoutContextPermutations(num_classes=10, width=8, num_layers=1, num_heads=2, head_size=4)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.arange(20) % 10
      >>> model.apply(model.init(jax.random.key(0), x_LX, y_L, 15), x_LX, y_L, 15).shape
      (20, 10)
    """

    max_length: int = 100

    def embed(self, x_LX: jax.Array, label_LC: jax.Array, in_context_L: jax.Array) -> tuple[jax.Array, Geometry | None]:
        h_LCD, pairs = super().embed(x_LX, label_LC, in_context_L)
        return h_LCD + learned_positions(self, h_LCD[:, 0], self.max_length)[:, None], pairs
