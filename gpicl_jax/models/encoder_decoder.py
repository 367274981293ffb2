"""An encoder–decoder Transformer for one episode: the second architecture of the public PyTorch project Lerostre/gpicl."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.models.base import SequenceModel
from gpicl_jax.models.blocks import SMEAR_KEYS, AttentionModel, learned_positions
from gpicl_jax.models.layers import fan_in_normal, labels_before
from gpicl_jax.registry import register
from gpicl_jax.settings import setting


@register("encoder_decoder")
class EncoderDecoder(AttentionModel, SequenceModel):
    """Images go through the encoder, previous labels through the decoder; all attention is causal.

    Encoder row i is x_i; decoder row i is onehot y_{i−1}, and attends to decoder rows ≤ i and, across, to encoder rows ≤ i:
    it sees x_0 … x_i and y_0 … y_{i−1}. `num_layers` blocks each.

    Attributes:
      max_length: positions in the two learned tables; a longer episode raises ValueError.

    Example:
      >>> model = EncoderDecoder(num_classes=10, width=16, num_layers=1, max_length=20)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32)
      >>> params = model.init(jax.random.key(0), x_LX, y_L)
      >>> model.apply(params, x_LX, y_L).shape
      (20, 10)
    """

    max_length: int = 100
    smear_keys: bool = setting(False, f"{SMEAR_KEYS}, in the decoder")

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        causal_LL = jnp.tri(len(y_L), dtype=bool)
        image_LD = nn.Dense(self.width, kernel_init=fan_in_normal, name="embed_images")(x_LX)
        image_LD = image_LD + learned_positions(self, image_LD, self.max_length, "image_positions")
        image_LD = self.run_blocks(image_LD, causal_LL, name="encoder", norm="norm_encoder")
        before_LC = labels_before(y_L, self.num_classes, self.label_scale)
        h_LD = nn.Dense(self.width, kernel_init=fan_in_normal, name="embed_labels")(before_LC)
        h_LD = h_LD + learned_positions(self, h_LD, self.max_length, "label_positions")
        h_LD = self.run_blocks(h_LD, causal_LL, image_LD, smear_keys=self.smear_keys, name="decoder")
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LD)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns the size of the keys and values of `length` examples, in the encoder, the decoder and across."""
        return 3 * self.keys_and_values(length)
