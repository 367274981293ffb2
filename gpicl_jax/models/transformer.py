"""The causal Transformer of GPICL, for one episode.

Pre-LN blocks as in GPT-2, learned positions, one token per example; sizes, biases and initialisers follow the authors'
code (google/learned_optimization, folder research/data_driven, commit 32186aa).
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

_ACTIVATIONS = {"gelu": nn.gelu, "relu": nn.relu}
# Haiku's default for a linear layer: a truncated normal of standard deviation 1/√fan_in, not corrected for the cut.
_CUT_NORMAL_STD = 0.87962566103423978
_fan_in_normal = nn.initializers.variance_scaling(_CUT_NORMAL_STD**2, "fan_in", "truncated_normal")


def shift_down(rows_LX: jax.Array) -> jax.Array:
    """Row i becomes row i − 1; row 0 becomes zeros."""
    return jnp.pad(rows_LX, ((1, 0), (0, 0)))[:-1]


class Attention(nn.Module):
    """Causal multi-head self-attention, heads × head_size wide whatever the model's width.

    With `smear_keys` key i becomes g·k_i + (1 − g)·k_{i−1}, g = sigmoid of one learned scalar per head, k_{−1} = k_0
    (Olsson et al. 2022, arXiv 2209.11895): a head can then find an example by what came just before it.
    """

    num_heads: int
    head_size: int
    smear_keys: bool
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h_LD: jax.Array) -> jax.Array:
        inner = self.num_heads * self.head_size
        dense = functools.partial(nn.Dense, kernel_init=self.kernel_init, dtype=self.dtype)
        query_HLE, key_HLE, value_HLE = (
            rearrange(dense(inner, name=name)(h_LD), "L (H E) -> H L E", H=self.num_heads) for name in ("query", "key", "value")
        )
        if self.smear_keys:
            gate_H = self.param("smear", nn.initializers.zeros, (self.num_heads,))
            before_HLE = jnp.concatenate([key_HLE[:, :1], key_HLE[:, :-1]], axis=1)
            own_H11 = nn.sigmoid(gate_H)[:, None, None].astype(key_HLE.dtype)
            key_HLE = own_H11 * key_HLE + (1 - own_H11) * before_HLE
        length = h_LD.shape[0]
        scores_HLM = jnp.einsum("hle,hme->hlm", query_HLE, key_HLE).astype(jnp.float32) / self.head_size**0.5
        weights_HLM = jax.nn.softmax(jnp.where(jnp.tri(length, dtype=bool), scores_HLM, -jnp.inf))
        mixed_HLE = jnp.einsum("hlm,hme->hle", weights_HLM.astype(self.dtype), value_HLE)
        return dense(h_LD.shape[-1], name="out")(rearrange(mixed_HLE, "H L E -> L (H E)"))


class Block(nn.Module):
    """LayerNorm, attention, residual; LayerNorm, MLP, residual. The residual stream stays float32."""

    attention: dict
    mlp_width: int
    activation: str
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h_LD: jax.Array) -> jax.Array:
        dense = functools.partial(nn.Dense, kernel_init=self.kernel_init, dtype=self.dtype)
        attention = Attention(**self.attention, kernel_init=self.kernel_init, dtype=self.dtype, name="attention")
        h_LD = h_LD + attention(nn.LayerNorm(epsilon=1e-5, name="norm_attention")(h_LD))
        hidden_LF = dense(self.mlp_width, name="mlp_in")(nn.LayerNorm(epsilon=1e-5, name="norm_mlp")(h_LD))
        return h_LD + dense(h_LD.shape[-1], name="mlp_out")(_ACTIVATIONS[self.activation](hidden_LF))


class Transformer(nn.Module):
    """Maps an episode to logits: row i sees x_0 … x_i and y_0 … y_{i−1}.

    Attributes:
      num_classes: C.
      width: D of the residual stream.
      num_layers, num_heads, head_size: as named; attention is num_heads × head_size wide.
      mlp_width: F; 0 is 4 × width.
      max_length: positions in the learned table; a longer episode raises ValueError.
      layout: `shifted`, tokens [x_i, onehot y_{i−1}] (the paper), or `paired`, tokens [x_i, x_{i−1}, onehot y_{i−1}],
        where each token holds a whole labelled example.
      label_scale: value of the hot entry of a label. 1 is the paper's; √C gives a label's entries the mean square of
        a standardised pixel, and the loss plateau shrinks.
      smear_keys: see `Attention`.
      activation: `gelu` or `relu`.
      dtype: of the blocks; parameters, residual stream, softmax and logits are float32.

    Example:
      >>> model = Transformer(num_classes=10, width=16, num_layers=1, max_length=20)
      >>> x_LX, y_L = jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32)
      >>> params = model.init(jax.random.key(0), x_LX, y_L)
      >>> model.apply(params, x_LX, y_L).shape
      (20, 10)
    """

    num_classes: int
    width: int = 256
    num_layers: int = 4
    num_heads: int = 8
    head_size: int = 32
    mlp_width: int = 0
    max_length: int = 100
    layout: str = "shifted"
    label_scale: float = 1.0
    smear_keys: bool = False
    activation: str = "gelu"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        length = x_LX.shape[0]
        if length > self.max_length:
            raise ValueError(f"an episode of {length} examples; this Transformer has positions for {self.max_length}")
        before_LC = shift_down(self.label_scale * jax.nn.one_hot(y_L, self.num_classes))
        parts = [x_LX, before_LC] if self.layout == "shifted" else [x_LX, shift_down(x_LX), before_LC]
        h_LD = nn.Dense(self.width, kernel_init=_fan_in_normal, name="embed")(jnp.concatenate(parts, axis=1))
        positions = self.param("positions", nn.initializers.truncated_normal(0.1), (self.max_length, self.width))
        h_LD = h_LD + positions[:length]
        block_init = nn.initializers.variance_scaling(2 / self.num_layers, "fan_in", "truncated_normal")
        attention = {"num_heads": self.num_heads, "head_size": self.head_size, "smear_keys": self.smear_keys}
        for layer in range(self.num_layers):
            h_LD = Block(
                attention=attention,
                mlp_width=self.mlp_width or 4 * self.width,
                activation=self.activation,
                kernel_init=block_init,
                dtype=self.dtype,
                name=f"block_{layer}",
            )(h_LD)
        h_LD = nn.LayerNorm(epsilon=1e-5, name="norm_out")(h_LD)
        return nn.Dense(self.num_classes, kernel_init=_fan_in_normal, name="head")(h_LD)
