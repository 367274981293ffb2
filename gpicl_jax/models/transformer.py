"""Transformers for one episode: GPICL's causal one, one of context and queries without order, and an encoder–decoder.

Sizes, biases and initialisers follow the authors' code (google/learned_optimization, folder research/data_driven, commit
32186aa). Blocks are pre-LN as in GPT-2.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from gpicl_jax.models.base import (
    ContextModel,
    Model,
    SequenceModel,
    dtype_setting,
    fan_in_normal,
    label_scale_setting,
    labels_before,
    layout_setting,
    tokens,
)
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError, setting

ACTIVATIONS = {"gelu": nn.gelu, "relu": nn.relu}
REMAT_BLOCKS = "recompute each block in the backward pass, which then needs the memory of one"
SMEAR_KEYS = "mix each key with the one before it (Olsson et al. 2022, arXiv 2209.11895)"


class Attention(nn.Module):
    """Multi-head attention of rows h_LD over rows memory_MD, heads × head_size wide whatever the model's width: [L, D].

    With `smear_keys` key i becomes g·k_i + (1 − g)·k_{i−1}, g = sigmoid of one learned scalar per head, k_{−1} = k_0
    (Olsson et al. 2022, arXiv 2209.11895). A head can then find an example by what came just before it.

    `positions` is `rope`, which turns queries and keys (`turned`), `alibi`, which lowers scores with the distance
    (`distance_bias`), or another name, without effect here.
    """

    num_heads: int
    head_size: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    smear_keys: bool = False
    positions: str = ""

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
    """Turns the pair (j, j + E/2) of row i by the angle i·10000^(−2j/E): RoPE (Su et al. 2021, arXiv 2104.09864).

    A product of a query and a key then depends on the distance of their rows alone.

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
    """Returns ALiBi (Press et al. 2022, arXiv 2108.12409), [H, L, M]: −m_h·(i − j), m_h = 2^(−8·(h + 1)/H), h = 0, 1, …

    Example:
      >>> distance_bias(2, 3, 3)[0, 2].tolist()
      [-0.125, -0.0625, -0.0]
    """
    slope_H11 = 2.0 ** (-8 * (1 + jnp.arange(num_heads)) / num_heads)[:, None, None]
    return -slope_H11 * (jnp.arange(length)[:, None] - jnp.arange(num_keys)[None])[None]


class Block(nn.Module):
    """LayerNorm, attention and residual, the same across to a memory if it has one, then LayerNorm, MLP and residual.

    The residual stream stays float32.
    """

    num_heads: int
    head_size: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    mlp_width: int
    activation: str
    smear_keys: bool = False
    positions: str = ""

    @nn.compact
    def __call__(self, h_LD: jax.Array, mask_LL: jax.Array, memory_LD: jax.Array | None = None) -> jax.Array:
        dense = functools.partial(nn.Dense, kernel_init=self.kernel_init, dtype=self.dtype)
        attention = functools.partial(Attention, self.num_heads, self.head_size, self.kernel_init, self.dtype)
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5)
        normed_LD = norm(name="norm_attention")(h_LD)
        h_LD = h_LD + attention(self.smear_keys, self.positions, name="attention")(normed_LD, normed_LD, mask_LL)
        if memory_LD is not None:
            h_LD = h_LD + attention(name="cross_attention")(norm(name="norm_cross")(h_LD), memory_LD, mask_LL)
        hidden_LF = dense(self.mlp_width, name="mlp_in")(norm(name="norm_mlp")(h_LD))
        return h_LD + dense(h_LD.shape[-1], name="mlp_out")(ACTIVATIONS[self.activation](hidden_LF))


class AttentionModel(Model):
    """The base class of Transformers. Parameters, residual stream, softmax and logits are float32 whatever the dtype."""

    width: int = setting(256, "D, size of the residual stream", minimum=1)
    num_layers: int = setting(4, "blocks", minimum=1)
    num_heads: int = setting(8, "heads of attention, which is num_heads × head_size wide", minimum=1)
    head_size: int = setting(32, "size of a key, query and value", minimum=1)
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
        """Applies all blocks and the last LayerNorm, [L, D]. Row i attends to the rows that row i of the mask allows."""
        block = nn.remat(Block) if self.remat else Block
        kernel_init = nn.initializers.variance_scaling(2 / self.num_layers, "fan_in", "truncated_normal")
        sizes = self.num_heads, self.head_size, kernel_init, self.dtype, self.mlp_width or 4 * self.width, self.activation
        for layer in range(self.num_layers):
            h_LD = block(*sizes, smear_keys, positions, name=f"{name}_{layer}")(h_LD, mask_LL, memory_LD)
        return nn.LayerNorm(epsilon=1e-5, name=norm)(h_LD)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns the size of the keys and values of `length` examples."""
        return 2 * self.num_layers * self.num_heads * self.head_size * length


def learned_positions(module: nn.Module, rows_LD: jax.Array, max_length: int, name: str = "positions") -> jax.Array:
    """Returns the first L rows of a learned table, whose start is truncated normal of standard deviation 0.1.

    Raises:
      ValueError: L is above `max_length`.
    """
    length, width = rows_LD.shape
    if length > max_length:
        raise ValueError(f"an episode of {length} examples; this {type(module).__name__} has positions for {max_length}")
    return module.param(name, nn.initializers.truncated_normal(0.1), (max_length, width))[:length]


@register("transformer")
class Transformer(AttentionModel, SequenceModel):
    """A causal Transformer (GPICL): row i sees x_0 … x_i and y_0 … y_{i−1}.

    `models.base.tokens` explains the layouts. With learned positions an episode that is longer than `max_length` raises
    ValueError.

    Example:
      >>> model = Transformer(num_classes=10, width=16, num_layers=1, max_length=20)
      >>> logits_LC, params = model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32))
      >>> logits_LC.shape
      (20, 10)
    """

    max_length: int = 100
    layout: str = layout_setting()
    smear_keys: bool = setting(False, SMEAR_KEYS)
    positions: str = setting("learned", "encoding of the order of tokens", choices=("learned", "rope", "alibi"))

    @classmethod
    def check(cls, config: Any) -> None:
        if config.model.positions == "rope" and config.model.head_size % 2:
            raise UserError(
                f"model.positions = 'rope' turns pairs of numbers; model.head_size = {config.model.head_size} is odd"
            )

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        tokens_LT = tokens(x_LX, y_L, self.num_classes, self.label_scale, self.layout)
        h_LD = nn.Dense(self.width, kernel_init=fan_in_normal, name="embed")(tokens_LT)
        if self.positions == "learned":
            h_LD = h_LD + learned_positions(self, h_LD, self.max_length)
        causal_LL = jnp.tri(len(h_LD), dtype=bool)
        h_LD = self.run_blocks(h_LD, causal_LL, smear_keys=self.smear_keys, positions=self.positions)
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LD)


@register("context_query")
class ContextQueryTransformer(AttentionModel, ContextModel):
    """A Transformer of a context and queries, without positions (prior-data fitted networks, Müller et al. 2022).

    Rows i < n are the context, tokens [x_i, onehot y_i], and attend to each other both ways. Rows i ≥ n are queries, tokens
    [x_i, 0], and attend to the context and to themselves. Permuting the context changes no query's logits. See also
    arXiv 2112.10510, and Transformer neural processes (Nguyen & Grover 2022, arXiv 2207.04179).

    Example:
      >>> model = ContextQueryTransformer(num_classes=10, width=16, num_layers=1)
      >>> logits_LC, params = model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32), 15)
      >>> logits_LC.shape
      (20, 10)
    """

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array, num_context: jax.Array | int) -> jax.Array:
        in_context_L = jnp.arange(len(y_L)) < num_context
        labels_LC = self.label_scale * jax.nn.one_hot(y_L, self.num_classes) * in_context_L[:, None]
        h_LD = nn.Dense(self.width, kernel_init=fan_in_normal, name="embed")(jnp.concatenate([x_LX, labels_LC], axis=1))
        h_LD = self.run_blocks(h_LD, in_context_L[None] | jnp.eye(len(y_L), dtype=bool))
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LD)


@register("encoder_decoder")
class EncoderDecoder(AttentionModel, SequenceModel):
    """A Transformer with images in an encoder and previous labels in a decoder. All attention is causal.

    This is the second architecture of the public PyTorch project Lerostre/gpicl. Encoder row i is x_i. Decoder row i is
    onehot y_{i−1}, and attends to decoder rows ≤ i and, across, to encoder rows ≤ i: it sees x_0 … x_i and y_0 … y_{i−1}.
    Both have `num_layers` blocks. An episode that is longer than `max_length` raises ValueError.

    Example:
      >>> model = EncoderDecoder(num_classes=10, width=16, num_layers=1, max_length=20)
      >>> logits_LC, params = model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32))
      >>> logits_LC.shape
      (20, 10)
    """

    max_length: int = 100
    smear_keys: bool = setting(False, f"{SMEAR_KEYS}, in the decoder")

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        causal_LL = jnp.tri(len(y_L), dtype=bool)
        image_LD = nn.Dense(self.width, kernel_init=fan_in_normal, name="embed_images")(x_LX)
        image_LD = image_LD + learned_positions(self, image_LD, self.max_length, "image_positions")
        image_LD = self.run_blocks(image_LD, causal_LL, name="encoder", norm="norm_encoder")
        before_LC = labels_before(y_L, self.num_classes, self.label_scale)
        h_LD = nn.Dense(self.width, kernel_init=fan_in_normal, name="embed_labels")(before_LC)
        h_LD = h_LD + learned_positions(self, h_LD, self.max_length, "label_positions")
        h_LD = self.run_blocks(h_LD, causal_LL, image_LD, smear_keys=self.smear_keys, name="decoder")
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LD)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns the size of the keys and values of `length` examples, in the encoder, the decoder and across."""
        return 3 * super().state_size(num_features, length)
