"""The LSTM that GPICL is compared with, for one episode.

As in the authors' code (google/learned_optimization, folder research/data_driven, commit 32186aa; models.py, `LSTM`).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.models.layers import fan_in_normal, shifted_tokens
from gpicl_jax.models.recurrent import Encoder, LSTMLayer


class LSTM(nn.Module):
    """Maps an episode to logits with an LSTM: row i sees x_0 … x_i and y_0 … y_{i−1}.

    Token i, [x_i, onehot y_{i−1}], goes through Linear-ReLU-Linear-ReLU, the LSTM (`recurrent.LSTMLayer`), and a
    Linear to the logits. With T = X + C and H the width, (T + 1) H + (H + 1) H + (2H + 1) 4H + (H + 1) C parameters.

    Attributes:
      num_classes: C.
      width: H of the encoder, of the hidden and of the cell state; the paper's table has 256.
      label_scale: value of the hot entry of a label.
      dtype: of the matrix products, the head's aside; parameters, states and logits are float32.

    Example:
      >>> model = LSTM(num_classes=10, width=16)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32)
      >>> params = model.init(jax.random.key(0), x_LX, y_L)
      >>> model.apply(params, x_LX, y_L).shape
      (20, 10)
      >>> model.state_size(num_features=64, length=20)
      32
    """

    num_classes: int
    width: int = 256
    label_scale: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        tokens_LT = shifted_tokens(x_LX, y_L, self.num_classes, self.label_scale)
        encoded_LH = Encoder(self.width, self.dtype, name="encoder")(tokens_LT)
        h_LH = LSTMLayer(self.width, self.dtype, name="lstm")(encoded_LH)
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LH)

    def state_size(self, num_features: int, length: int) -> int:
        """How many numbers go from one example to the next: h and c, 2H, whatever the episode."""
        del num_features, length
        return 2 * self.width
