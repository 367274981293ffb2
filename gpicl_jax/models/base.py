"""The base classes of models: Flax modules for one episode. Many share the tokens and the initialiser of this file."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.settings import setting

# Haiku's default for a linear layer: a truncated normal of standard deviation 1/√fan_in, not corrected for the cut.
fan_in_normal = nn.initializers.variance_scaling(0.87962566103423978**2, "fan_in", "truncated_normal")


SHIFTED, PAIRED = "shifted", "paired"


def dtype_setting() -> Any:
    """Returns the setting of a model that can compute in bfloat16."""
    return setting("float32", "precision of the products; parameters and logits are float32", choices=("float32", "bfloat16"))


def label_scale_setting() -> Any:
    """Returns the setting of a model whose tokens hold labels."""
    return setting(1.0, "value of the 1 in a one-hot label; √C gives the mean square of a standardised pixel", above=0.0)


def layout_setting() -> Any:
    """Returns the setting of a model whose tokens hold an image and a label. See `tokens`."""
    return setting(SHIFTED, f"{SHIFTED}: [x_i, y_(i-1)]; {PAIRED}: [x_i, x_(i-1), y_(i-1)]", choices=(SHIFTED, PAIRED))


class Model(nn.Module):
    """A network for one episode, without a batch axis. A subclass is one of the three kinds below.

    Attributes:
      num_classes: C.
      any_features: whether the same weights take inputs of any X, through their Gram matrix alone.
      max_length: longest episode, or None where there is no limit.
      transductive: whether rows see each other's x (batch statistics, as in Finn's MAML).
      learner: name of its learner unless the config names another, or '' for none.
    """

    num_classes: int

    room, needs, given = "model", ("__call__", "state_size"), ("num_classes", "max_length", "channels")
    any_features = False
    max_length = None
    transductive = False
    learner = ""

    @classmethod
    def check(cls, config: Any) -> None:
        """Raises UserError where the settings do not fit the rest of `config`."""

    def __call__(self, x_LX: jax.Array, *args: Any) -> jax.Array:
        """Returns logits, float32 [L, C]."""
        raise NotImplementedError

    def state_size(self, num_features: int, length: int) -> int:
        """Returns how many numbers go from one example to the next, at the end of an episode of `length`."""
        raise NotImplementedError

    def training_bytes(self, length: int) -> int:
        """Returns a lower bound of what the backward pass of one episode keeps, or 0 where none is known."""
        return 0


class SequenceModel(Model):
    """A model `(x_LX, y_L) → logits_LC` whose row i sees x_0 … x_i and y_0 … y_{i−1}."""

    learner = "in_context"


class ContextModel(Model):
    """A model `(x_LX, y_L, num_context) → logits_LC` of a context, rows below n, and queries, rows from n on.

    Each query sees the whole context and its own x.
    """

    learner = "context_query"


class RowModel(Model):
    """A model `(x_LX) → logits_LC` that sees each example alone, or a set of them at once."""

    def state_size(self, num_features: int, length: int) -> int:
        """Returns 0: nothing goes from one example to the next."""
        return 0


def shift_down(rows_LX: jax.Array) -> jax.Array:
    """Moves row i to row i + 1. Row 0 becomes zeros."""
    return jnp.pad(rows_LX, ((1, 0), (0, 0)))[:-1]


def labels_before(y_L: jax.Array, num_classes: int, label_scale: float = 1.0) -> jax.Array:
    """Returns float32 [L, C] whose row i is the one-hot label of example i − 1. Row 0 is zeros.

    Example:
      >>> labels_before(jnp.array([2, 0]), 3).tolist()
      [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return shift_down(label_scale * jax.nn.one_hot(y_L, num_classes))


def images_of(x_LX: jax.Array, layout: str) -> jax.Array:
    """Returns x_i, or of the layout `paired` [x_i, x_{i−1}], in each row. x_{−1} is zeros."""
    return jnp.concatenate([x_LX, shift_down(x_LX)], axis=1) if layout == PAIRED else x_LX


def tokens(x_LX: jax.Array, y_L: jax.Array, num_classes: int, label_scale: float = 1.0, layout: str = SHIFTED) -> jax.Array:
    """Returns tokens in float32.

    The layout `shifted` has the paper's, [x_i, onehot y_{i−1}], of X + C numbers. The layout `paired` has [x_i, x_{i−1},
    onehot y_{i−1}], of 2X + C numbers, each of which holds a whole labelled example.

    Example:
      >>> tokens(jnp.array([[5.0], [6.0]]), jnp.array([1, 0]), 2, layout="paired").tolist()
      [[5.0, 0.0, 0.0, 0.0], [6.0, 5.0, 0.0, 1.0]]
    """
    return jnp.concatenate([images_of(x_LX, layout), labels_before(y_L, num_classes, label_scale)], axis=1)
