"""The LSTM that GPICL is compared with, for one episode.

As in the authors' code (google/learned_optimization, folder research/data_driven, commit 32186aa; models.py, `LSTM`).
"""

import jax
from flax import linen as nn

from gpicl_jax.models.base import SequenceModel, dtype_setting, label_scale_setting
from gpicl_jax.models.layers import fan_in_normal, shifted_tokens
from gpicl_jax.models.recurrent import Encoder, LSTMLayer
from gpicl_jax.registry import register
from gpicl_jax.settings import setting


@register("lstm")
class LSTM(SequenceModel):
    """Maps an episode to logits with an LSTM: row i sees x_0 … x_i and y_0 … y_{i−1}.

    Token i, [x_i, onehot y_{i−1}], goes through Linear-ReLU-Linear-ReLU, the LSTM (`recurrent.LSTMLayer`), and a
    Linear to the logits. With T = X + C and H the width, (T + 1) H + (H + 1) H + (2H + 1) 4H + (H + 1) C parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> model = LSTM(num_classes=10, width=16)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32)
      >>> params = model.init(jax.random.key(0), x_LX, y_L)
      >>> model.apply(params, x_LX, y_L).shape
      (20, 10)
      >>> model.state_size(num_features=64, length=20)
      32
    """

    width: int = setting(256, "size of the encoder, the hidden and the cell state; 256 in the paper's table", minimum=1)
    label_scale: float = label_scale_setting()
    dtype: str = dtype_setting()

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        tokens_LT = shifted_tokens(x_LX, y_L, self.num_classes, self.label_scale)
        encoded_LH = Encoder(self.width, self.dtype, name="encoder")(tokens_LT)
        h_LH = LSTMLayer(self.width, self.dtype, name="lstm")(encoded_LH)
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LH)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns 2H, the sizes of h and c, whatever the episode."""
        del num_features, length
        return 2 * self.width
