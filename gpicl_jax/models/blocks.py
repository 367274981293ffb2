"""Pre-LN attention blocks as in GPT-2, and the sizes that every model made of them shares.

Sizes, biases and initialisers follow the authors' code (google/learned_optimization, folder research/data_driven, commit
32186aa).
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from gpicl_jax.models.base import Model, dtype_setting, label_scale_setting
from gpicl_jax.settings import setting

ACTIVATIONS = {"gelu": nn.gelu, "relu": nn.relu}
REMAT_BLOCKS = "recompute each block in the backward pass, which then needs the memory of one"
SMEAR_KEYS = "mix each key with the one before it (Olsson et al. 2022, arXiv 2209.11895)"


class Attention(nn.Module):
    """Multi-head attention, heads × head_size wide whatever the model's width.

    With `smear_keys` key i becomes g·k_i + (1 − g)·k_{i−1}, g = sigmoid of one learned scalar per head, k_{−1} = k_0
    (Olsson et al. 2022, arXiv 2209.11895): a head can then find an example by what came just before it.

    `positions` is `rope`, where queries and keys are turned (`turned`), `alibi`, where scores fall with the distance
    (`distance_bias`), or another name, which changes nothing here.
    """

    num_heads: int
    head_size: int
    smear_keys: bool
    positions: str
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h_LD: jax.Array, memory_MD: jax.Array, mask_LM: jax.Array) -> jax.Array:
        dense = functools.partial(nn.Dense, kernel_init=self.kernel_init, dtype=self.dtype)
        query_HLE, key_HME, value_HME = (
            rearrange(dense(self.num_heads * self.head_size, name=name)(rows), "L (H E) -> H L E", H=self.num_heads)
            for name, rows in (("query", h_LD), ("key", memory_MD), ("value", memory_MD))
        )
        if self.smear_keys:
            gate_H = self.param("smear", nn.initializers.zeros, (self.num_heads,))
            before_HME = jnp.concatenate([key_HME[:, :1], key_HME[:, :-1]], axis=1)
            own_H11 = nn.sigmoid(gate_H)[:, None, None].astype(key_HME.dtype)
            key_HME = own_H11 * key_HME + (1 - own_H11) * before_HME
        if self.positions == "rope":
            query_HLE, key_HME = turned(query_HLE), turned(key_HME)
        scores_HLM = jnp.einsum("hle,hme->hlm", query_HLE, key_HME).astype(jnp.float32) / self.head_size**0.5
        if self.positions == "alibi":
            scores_HLM = scores_HLM + distance_bias(*scores_HLM.shape)
        weights_HLM = jax.nn.softmax(jnp.where(mask_LM, scores_HLM, -jnp.inf))
        mixed_HLE = jnp.einsum("hlm,hme->hle", weights_HLM.astype(self.dtype), value_HME)
        return dense(h_LD.shape[-1], name="out")(rearrange(mixed_HLE, "H L E -> L (H E)"))


def turned(rows_HLE: jax.Array) -> jax.Array:
    """RoPE (Su et al. 2021, arXiv 2104.09864): the pair (j, j + E/2) of row i is turned by the angle i·10000^(−2j/E), so that
    a product of a query and a key depends on the distance of their rows alone.

    Example:
      >>> rows_HLE = turned(jnp.ones((1, 8, 4)))
      >>> bool(jnp.allclose(rows_HLE[0, 2] @ rows_HLE[0, 0], rows_HLE[0, 7] @ rows_HLE[0, 5], atol=1e-5))
      True
    """
    _, length, size = rows_HLE.shape
    angle_LP = jnp.arange(length)[:, None] * 10000.0 ** (-jnp.arange(0, size, 2) / size)[None]
    cos_LP, sin_LP = jnp.cos(angle_LP)[None], jnp.sin(angle_LP)[None]
    first_HLP, second_HLP = jnp.split(rows_HLE.astype(jnp.float32), 2, axis=-1)
    both = [first_HLP * cos_LP - second_HLP * sin_LP, first_HLP * sin_LP + second_HLP * cos_LP]
    return jnp.concatenate(both, axis=-1).astype(rows_HLE.dtype)


def distance_bias(num_heads: int, length: int, num_keys: int) -> jax.Array:
    """ALiBi (Press et al. 2022, arXiv 2108.12409), [H, L, M]: −m_h·(i − j), m_h = 2^(−8·(h + 1)/H) for heads h = 0, 1, …

    Example:
      >>> distance_bias(2, 3, 3)[0, 2].tolist()
      [-0.125, -0.0625, -0.0]
    """
    slope_H11 = 2.0 ** (-8 * (1 + jnp.arange(num_heads)) / num_heads)[:, None, None]
    return -slope_H11 * (jnp.arange(length)[:, None] - jnp.arange(num_keys)[None])[None]


class Block(nn.Module):
    """LayerNorm, attention, residual; the same across to a memory, if there is one; LayerNorm, MLP, residual.

    The residual stream stays float32.
    """

    attention: dict
    mlp_width: int
    activation: str
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h_LD: jax.Array, mask_LL: jax.Array, memory_LD: jax.Array | None = None) -> jax.Array:
        dense = functools.partial(nn.Dense, kernel_init=self.kernel_init, dtype=self.dtype)
        attention = functools.partial(Attention, kernel_init=self.kernel_init, dtype=self.dtype)
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5)
        normed_LD = norm(name="norm_attention")(h_LD)
        h_LD = h_LD + attention(**self.attention, name="attention")(normed_LD, normed_LD, mask_LL)
        if memory_LD is not None:
            across = attention(**{**self.attention, "smear_keys": False, "positions": ""}, name="cross_attention")
            h_LD = h_LD + across(norm(name="norm_cross")(h_LD), memory_LD, mask_LL)
        hidden_LF = dense(self.mlp_width, name="mlp_in")(norm(name="norm_mlp")(h_LD))
        return h_LD + dense(h_LD.shape[-1], name="mlp_out")(ACTIVATIONS[self.activation](hidden_LF))


class AttentionModel(Model):
    """What the Transformers share. Parameters, residual stream, softmax and logits are float32 whatever the dtype."""

    width: int = setting(256, "D, of the residual stream", minimum=1)
    num_layers: int = setting(4, "blocks", minimum=1)
    num_heads: int = setting(8, "heads of attention, which is num_heads × head_size wide", minimum=1)
    head_size: int = setting(32, "of a key, query and value", minimum=1)
    mlp_width: int = setting(0, "hidden units of a block's MLP; 0 is 4 × width", minimum=0)
    label_scale: float = label_scale_setting()
    activation: str = setting("gelu", "non-linearity of the MLPs", choices=tuple(ACTIVATIONS))
    dtype: str = dtype_setting()
    remat: bool = setting(False, REMAT_BLOCKS, free=True)

    def run_blocks(
        self,
        h_LD: jax.Array,
        mask_LL: jax.Array,
        memory_LD: jax.Array | None = None,
        *,
        smear_keys: bool = False,
        positions: str = "",
        name: str = "block",
        norm: str = "norm_out",
    ) -> jax.Array:
        """All blocks and the last LayerNorm, [L, D]; row i attends to the rows that row i of the mask allows."""
        block = nn.remat(Block) if self.remat else Block
        heads = {"num_heads": self.num_heads, "head_size": self.head_size}
        for layer in range(self.num_layers):
            h_LD = block(
                attention={**heads, "smear_keys": smear_keys, "positions": positions},
                mlp_width=self.mlp_width or 4 * self.width,
                activation=self.activation,
                kernel_init=nn.initializers.variance_scaling(2 / self.num_layers, "fan_in", "truncated_normal"),
                dtype=self.dtype,
                name=f"{name}_{layer}",
            )(h_LD, mask_LL, memory_LD)
        return nn.LayerNorm(epsilon=1e-5, name=norm)(h_LD)

    def keys_and_values(self, length: int) -> int:
        """Numbers that the blocks keep of `length` tokens."""
        return 2 * self.num_layers * self.num_heads * self.head_size * length


def learned_positions(module: nn.Module, rows_LD: jax.Array, max_length: int, name: str = "positions") -> jax.Array:
    """A learned table's first L rows, truncated normal of standard deviation 0.1 at the start.

    Raises:
      ValueError: L is above `max_length`.
    """
    length, width = rows_LD.shape
    if length > max_length:
        raise ValueError(f"an episode of {length} examples; this {type(module).__name__} has positions for {max_length}")
    return module.param(name, nn.initializers.truncated_normal(0.1), (max_length, width))[:length]
