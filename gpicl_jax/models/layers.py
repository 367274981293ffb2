"""What several models share: the token of an example, and the initialiser of a plain linear layer."""

import jax
import jax.numpy as jnp
from flax import linen as nn

# Haiku's default for a linear layer: a truncated normal of standard deviation 1/√fan_in, not corrected for the cut.
_CUT_NORMAL_STD = 0.87962566103423978
fan_in_normal = nn.initializers.variance_scaling(_CUT_NORMAL_STD**2, "fan_in", "truncated_normal")


def shift_down(rows_LX: jax.Array) -> jax.Array:
    """Row i becomes row i − 1; row 0 becomes zeros."""
    return jnp.pad(rows_LX, ((1, 0), (0, 0)))[:-1]


def labels_before(y_L: jax.Array, num_classes: int, label_scale: float = 1.0) -> jax.Array:
    """Row i is the one-hot label of example i − 1, float32 [L, C]; row 0 is zeros.

    Example:
      >>> labels_before(jnp.array([2, 0]), 3).tolist()
      [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return shift_down(label_scale * jax.nn.one_hot(y_L, num_classes))


def shifted_tokens(x_LX: jax.Array, y_L: jax.Array, num_classes: int, label_scale: float = 1.0) -> jax.Array:
    """The paper's tokens [x_i, onehot y_{i−1}], float32 [L, X + C]."""
    return jnp.concatenate([x_LX, labels_before(y_L, num_classes, label_scale)], axis=1)
