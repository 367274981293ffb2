"""The outer-product LSTM of GPICL, for one episode: a state of d² numbers for parameters of order d².

As in the authors' code (google/learned_optimization, folder research/data_driven, commit 32186aa; model_components.py,
`OuterLSTM`). Not the "OP-LSTM" of Huisman et al. 2023, which is another meta-learner.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from gpicl_jax.models.base import SequenceModel, dtype_setting, label_scale_setting
from gpicl_jax.models.layers import fan_in_normal, shifted_tokens
from gpicl_jax.models.recurrent import Encoder, Gates
from gpicl_jax.registry import register
from gpicl_jax.settings import setting


class OuterProductLayer(nn.Module):
    """Runs the outer-product LSTM over the rows of x_LD from h = C = 0 and returns h_LI, I = num_heads × head_size.

    With [k1 (3d), k2 (3d), q (d), o (d)] per head from [x, h] W + b, and s = softplus(key_scale), key_scale at first 0:
      M_r = s tanh(k1_r) ⊗ tanh(k2_r) for the three rows r = input, cell, forget of k1 and k2,
      C ← σ(M_forget + 1) C + σ(M_input) M_cell, entry by entry,
      h ← σ(o) tanh(Cᵀ q), the heads side by side.
    """

    num_heads: int
    head_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_LD: jax.Array) -> jax.Array:
        inner = self.num_heads * self.head_size
        input_LG, recurrent = Gates(8 * inner, inner, self.dtype, name="gates")(x_LD)
        scale = nn.softplus(self.param("key_scale", nn.initializers.zeros, ()))

        def step(state, input_G):
            h_I, cell_NEF = state
            z_N8E = rearrange(input_G + recurrent(h_I), "(N Z E) -> N Z E", N=self.num_heads, Z=8)
            keys_N3E, others_N3F, query_NE, output_NF = z_N8E[:, 0:3], z_N8E[:, 3:6], z_N8E[:, 6], z_N8E[:, 7]
            gates_3NEF = jnp.einsum("nre,nrf->rnef", scale * jnp.tanh(keys_N3E), jnp.tanh(others_N3F))
            input_NEF, candidate_NEF, forget_NEF = gates_3NEF
            cell_NEF = nn.sigmoid(forget_NEF + 1) * cell_NEF + nn.sigmoid(input_NEF) * candidate_NEF
            h_NF = nn.sigmoid(output_NF) * jnp.tanh(jnp.einsum("nef,ne->nf", cell_NEF, query_NE))
            return (h_NF.ravel(), cell_NEF), h_NF.ravel()

        # The backward pass keeps the state of each step and computes the other d × d matrices again: a fifth of the memory.
        start = jnp.zeros(inner), jnp.zeros((self.num_heads, self.head_size, self.head_size))
        _, h_LI = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), start, input_LG)
        return h_LI


@register("outer_product_lstm")
class OuterProductLSTM(SequenceModel):
    """Maps an episode to logits with an outer-product LSTM: row i sees x_0 … x_i and y_0 … y_{i−1}.

    Token i, [x_i, onehot y_{i−1}], goes through Linear-ReLU-Linear-ReLU, the outer-product LSTM (`OuterProductLayer`),
    and a Linear to the logits. With T = X + C, W the width and I = num_heads × head_size it has
    (T + 1) W + (W + 1) W + (W + I + 1) 8I + 1 + (I + 1) C parameters.

    Example:
      >>> model = OuterProductLSTM(num_classes=10, width=16, num_heads=2, head_size=8)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32)
      >>> params = model.init(jax.random.key(0), x_LX, y_L)
      >>> model.apply(params, x_LX, y_L).shape
      (20, 10)
      >>> model.state_size(num_features=64, length=20)
      144
    """

    width: int = setting(64, "size of the encoder; the authors' is the head size", minimum=1)
    num_heads: int = setting(1, "heads, each with a state of its own", minimum=1)
    head_size: int = setting(64, "d, of a head, whose state is d × d", minimum=1)
    label_scale: float = label_scale_setting()
    dtype: str = dtype_setting()

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        tokens_LT = shifted_tokens(x_LX, y_L, self.num_classes, self.label_scale)
        encoded_LD = Encoder(self.width, self.dtype, name="encoder")(tokens_LT)
        h_LI = OuterProductLayer(self.num_heads, self.head_size, self.dtype, name="outer_product")(encoded_LD)
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LI)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns heads × (d² + d), whatever the episode."""
        del num_features, length
        return self.num_heads * (self.head_size**2 + self.head_size)
