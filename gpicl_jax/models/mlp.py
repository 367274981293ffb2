"""A multi-layer perceptron for one example, for instance learners, online learners and MAML."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.models.base import RowModel, dtype_setting, fan_in_normal
from gpicl_jax.registry import register
from gpicl_jax.settings import setting


@register("mlp")
class MLP(RowModel):
    """A multi-layer perceptron on each row alone: `num_layers` hidden ReLU layers of equal width, then a linear layer.

    Example:
      >>> model = MLP(num_classes=10, width=32, num_layers=2)
      >>> model.apply(model.init(jax.random.key(0), jnp.zeros((20, 64))), jnp.zeros((20, 64))).shape
      (20, 10)
    """

    width: int = setting(128, "hidden units of a layer", minimum=1)
    num_layers: int = setting(2, "hidden layers; 0 is a linear classifier", minimum=0)
    dtype: str = dtype_setting()

    @nn.compact
    def __call__(self, x_LX: jax.Array) -> jax.Array:
        h_LF = x_LX
        for layer in range(self.num_layers):
            dense = nn.Dense(self.width, kernel_init=fan_in_normal, dtype=self.dtype, name=f"hidden_{layer}")
            h_LF = nn.relu(dense(h_LF))
        head = nn.Dense(self.num_classes, kernel_init=fan_in_normal, dtype=self.dtype, name="head")
        return head(h_LF).astype(jnp.promote_types(self.dtype, jnp.float32))
