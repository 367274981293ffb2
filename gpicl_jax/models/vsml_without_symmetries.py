"""VSML without its symmetries: a k × k grid of pairs between learned linear layers; for one episode."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.models.base import SequenceModel, dtype_setting, label_scale_setting
from gpicl_jax.models.layers import fan_in_normal, labels_before
from gpicl_jax.models.vsml import REMAT_EXAMPLES, SharedLSTM, over_time, resting_cells
from gpicl_jax.registry import register
from gpicl_jax.settings import setting


@register("vsml_without_symmetries")
class VSMLWithoutSymmetries(SequenceModel):
    """Maps an episode to logits by a k × k grid of pairs: row i sees x_0 … x_i and y_0 … y_{i−1}.

    Sizes of state and parameters are free of X and C; permuting inputs or labels is not the same problem any more. With
    `SharedLSTM`'s messages f_b, g_a of the previous example (zeros at first, as are h and c):

      u_a = [g_a, Linear_a(x_t)];  v_b = [f_b, Linear_b(onehot y_{t−1})];  h, c, f, g ← SharedLSTM;
      logits = Linear([f_1, …, f_k])

    as in the authors' code (google/learned_optimization, folder research/data_driven, commit 32186aa), where k is 8 and the
    LSTM's width 16; 64 is the paper's.

    Example:
      >>> model = VSMLWithoutSymmetries(num_classes=10, grid_size=2)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32)
      >>> params = model.init(jax.random.key(0), x_LX, y_L)
      >>> model.apply(params, x_LX, y_L).shape
      (20, 10)
    """

    grid_size: int = setting(8, "k, of the grid of k × k LSTMs", minimum=1)
    width: int = setting(64, "H, of the LSTM of each pair", minimum=1)
    feature_message_size: int = setting(16, "numbers that each input of the grid gets of x", minimum=1)
    label_message_size: int = setting(4, "numbers that each output of the grid gets of the label", minimum=1)
    message_size: int = setting(8, "M, numbers of a message", minimum=1)
    micro_ticks: int = setting(2, "LSTM steps for each example", minimum=1)
    label_scale: float = label_scale_setting()
    remat: bool = setting(True, REMAT_EXAMPLES, free=True)
    dtype: str = dtype_setting()

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        length, size = len(y_L), self.grid_size

        def messages(rows_LN: jax.Array, message_size: int, name: str) -> jax.Array:
            dense = nn.Dense(size * message_size, kernel_init=fan_in_normal, dtype=self.dtype, name=name)
            return dense(rows_LN).astype(jnp.float32).reshape(length, size, message_size)

        before_LC = labels_before(y_L, self.num_classes, self.label_scale)
        rows = messages(x_LX, self.feature_message_size, "features"), messages(before_LC, self.label_message_size, "labels")
        lstm = SharedLSTM(self.width, self.message_size, self.micro_ticks, self.dtype, name="lstm")
        zeros_KM = jnp.zeros((size, self.message_size))
        carry = resting_cells(self.width, size, size), zeros_KM, zeros_KM
        f_LKM = over_time(self._step, lstm, carry, rows, remat=self.remat)
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(f_LKM.reshape(length, -1))

    def state_size(self, num_features: int, length: int) -> int:
        """Returns the sizes of the states of all pairs and of the messages that wait for the next example."""
        return 2 * self.width * self.grid_size**2 + 2 * self.grid_size * self.message_size

    @staticmethod
    def _step(lstm: SharedLSTM, carry: Any, row: Any) -> tuple[Any, jax.Array]:
        (cells, f_KM, g_KM), (features_KE, label_KE) = carry, row
        u_KU, v_KV = jnp.concatenate([g_KM, features_KE], axis=1), jnp.concatenate([f_KM, label_KE], axis=1)
        cells, f_KM, g_KM = lstm(cells, u_KU, v_KV)
        return (cells, f_KM, g_KM), f_KM
