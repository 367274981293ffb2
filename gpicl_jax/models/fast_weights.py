"""An LSTM with a fast-weight memory, for one episode.

As in the authors' code (google/learned_optimization, folder research/data_driven, commit 32186aa; models.py,
`FWMemory`), after Schlag, Munkhdalai and Schmidhuber, "Learning Associative Inference Using Fast Weight Memory" (ICLR
2021), here with one read and no bound on the norm of the memory.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from gpicl_jax.models.base import SequenceModel, dtype_setting, label_scale_setting
from gpicl_jax.models.layers import fan_in_normal, shifted_tokens
from gpicl_jax.models.recurrent import Linear, LSTMLayer
from gpicl_jax.registry import register
from gpicl_jax.settings import setting


def keys(first_LM: jax.Array, second_LM: jax.Array) -> jax.Array:
    """Row by row flat(tanh(first) ⊗ tanh(second)), K = M² long.

    Example:
      >>> keys(jnp.zeros((5, 3)), jnp.ones((5, 3))).shape
      (5, 9)
    """
    return rearrange(jnp.einsum("li,lj->lij", jnp.tanh(first_LM), jnp.tanh(second_LM)), "L I J -> L (I J)")


class FastWeightMemory(nn.Module):
    """Writes a value at a key for each row of h_LH, then reads with another key: read_LM, M = memory_size.

    With [k1 (M), k2 (M), v (M), β (1)] and [r1 (M), r2 (M)] two linear functions of h, memory F ∈ R^{M × M²} at first 0:
      k = flat(tanh(k1) ⊗ tanh(k2)),  F ← F + σ(β) (tanh(v) − F k) ⊗ k,  read = F flat(tanh(r1) ⊗ tanh(r2)).
    """

    memory_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h_LH: jax.Array) -> jax.Array:
        size = self.memory_size
        write_LF = Linear(3 * size + 1, self.dtype, name="write")(h_LH)
        first_LM, second_LM, value_LM, rate_L1 = jnp.split(write_LF, [size, 2 * size, 3 * size], axis=1)
        read_LF = Linear(2 * size, self.dtype, name="read")(h_LH)

        def step(memory_MK, row):
            key_K, value_M, rate_1, read_key_K = row
            change_M = rate_1 * (value_M - memory_MK @ key_K)
            memory_MK = memory_MK + change_M[:, None] * key_K[None]
            return memory_MK, memory_MK @ read_key_K

        rows = keys(first_LM, second_LM), jnp.tanh(value_LM), nn.sigmoid(rate_L1), keys(*jnp.split(read_LF, 2, axis=1))
        # The backward pass keeps one memory per step, not the one before and the one after it.
        _, read_LM = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), jnp.zeros((size, size**2)), rows)
        return read_LM


@register("fast_weights")
class FastWeights(SequenceModel):
    """Maps an episode to logits with an LSTM and a fast-weight memory: row i sees x_0 … x_i and y_0 … y_{i−1}.

    h = LSTM(tokens [x_i, onehot y_{i−1}]) with no encoder before it, as in the authors' code, and
    logits = Linear(h + Linear(LayerNorm(read))), where `FastWeightMemory` makes the read of h; the norm has a scale and no
    offset, and the LSTM does not see what is read. With T = X + C, H the width and M = memory_size it has
    (T + H + 1) 4H + (H + 1)(3M + 1) + (H + 1) 2M + M + (M + 1) H + (H + 1) C parameters.

    Example:
      >>> model = FastWeights(num_classes=10, width=16, memory_size=4)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32)
      >>> params = model.init(jax.random.key(0), x_LX, y_L)
      >>> model.apply(params, x_LX, y_L).shape
      (20, 10)
      >>> model.state_size(num_features=64, length=20)
      96
    """

    width: int = setting(64, "size of the LSTM's hidden state", minimum=1)
    memory_size: int = setting(16, "M, of values and of the two halves of a key; the memory is M × M²", minimum=1)
    label_scale: float = label_scale_setting()
    dtype: str = dtype_setting()

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        tokens_LT = shifted_tokens(x_LX, y_L, self.num_classes, self.label_scale)
        h_LH = LSTMLayer(self.width, self.dtype, name="lstm")(tokens_LT)
        read_LM = FastWeightMemory(self.memory_size, self.dtype, name="memory")(h_LH)
        normed_LM = nn.LayerNorm(epsilon=1e-5, use_bias=False, name="norm")(read_LM)
        h_LH = h_LH + Linear(self.width, self.dtype, name="read_out")(normed_LM)
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LH)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns 2H + M³, the sizes of the LSTM's state and of the memory, whatever the episode."""
        del num_features, length
        return 2 * self.width + self.memory_size**3
