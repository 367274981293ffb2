"""Recurrent models for one episode: the LSTM that GPICL is compared with, the outer-product LSTM, and one with fast weights.

They follow the authors' code (google/learned_optimization, folder research/data_driven, commit 32186aa; `LSTM` and `FWMemory`
of models.py, `OuterLSTM` of model_components.py).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from gpicl_jax.models.base import SequenceModel, dtype_setting, fan_in_normal, label_scale_setting, layout_setting, tokens
from gpicl_jax.registry import register
from gpicl_jax.settings import setting

_SEGMENT = 5


def product(rows: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns rows @ kernel, both rounded to `dtype`, as float32, so that sums over time, also of gradients, are float32."""
    return (rows.astype(dtype) @ kernel.astype(dtype)).astype(jnp.float32)


def scan_in_segments(step: Callable, start: Any, rows_L: Any) -> Any:
    """Returns the outputs of `lax.scan(step, start, rows_L)`. Its backward pass keeps only the states between segments of rows.

    It computes a segment again before it goes back through it. Each row is computed twice, whatever the segments' length. With
    states of d × d numbers, segments of five rows need a third of the memory of single rows. A CPU has single rows, whose
    numbers fit its cache. Longer segments are a third slower there.
    """

    def scan(size: int, start: Any, rows_L: Any) -> Any:
        length = len(jax.tree.leaves(rows_L)[0])
        whole = length - length % size
        segment = jax.checkpoint(functools.partial(jax.lax.scan, step, unroll=True), prevent_cse=False)
        segments = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, size, *leaf.shape[1:]), rows_L)
        state, outputs = jax.lax.scan(segment, start, segments)
        outputs = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), outputs)
        if whole == length:
            return outputs
        _, last = segment(state, jax.tree.map(lambda leaf: leaf[whole:], rows_L))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), outputs, last)

    return jax.lax.platform_dependent(start, rows_L, cpu=functools.partial(scan, 1), default=functools.partial(scan, _SEGMENT))


class Linear(nn.Module):
    """x_LD W + b as float32, whatever the `dtype` of the product."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_LD: jax.Array) -> jax.Array:
        kernel_DF = self.param("kernel", fan_in_normal, (x_LD.shape[1], self.features))
        bias_F = self.param("bias", nn.initializers.zeros, (self.features,))
        return product(x_LD, kernel_DF, self.dtype) + bias_F[None]


class Encoder(nn.Module):
    """The layers Linear, ReLU, Linear, ReLU on every token alone."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_LX: jax.Array) -> jax.Array:
        for layer in ("linear_0", "linear_1"):
            x_LX = nn.relu(Linear(self.width, self.dtype, name=layer)(x_LX))
        return x_LX


class Gates(nn.Module):
    """z_i = [x_i, h_{i−1}] W + b in two parts: W x_i + b for all i in one product, and the function h ↦ h W of a step.

    The kernel is one array [D + H, G] with the inputs' rows first, so its initialiser sees the fan-in of both parts.
    """

    features: int
    state_width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_LD: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
        inputs = x_LD.shape[1]
        kernel = self.param("kernel", fan_in_normal, (inputs + self.state_width, self.features))
        bias_G = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel_DG, kernel_HG = kernel[:inputs], kernel[inputs:]
        return product(x_LD, kernel_DG, self.dtype) + bias_G[None], lambda h_H: product(h_H, kernel_HG, self.dtype)


class LSTMLayer(nn.Module):
    """An LSTM over the rows of x_LD from h = c = 0, with output h_LH.

    With [i, f, g, o] = [x, h] W + b (Hochreiter & Schmidhuber 1997, with the + 1 on the forget gate of Haiku's LSTM):
      c ← σ(f + 1) c + σ(i) tanh(g),  h ← σ(o) tanh(c).
    """

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_LD: jax.Array) -> jax.Array:
        input_LG, recurrent = Gates(4 * self.width, self.width, self.dtype, name="gates")(x_LD)

        def step(state, input_G):
            h_H, c_H = state
            i_H, f_H, g_H, o_H = jnp.split(input_G + recurrent(h_H), 4)
            c_H = nn.sigmoid(f_H + 1) * c_H + nn.sigmoid(i_H) * jnp.tanh(g_H)
            h_H = nn.sigmoid(o_H) * jnp.tanh(c_H)
            return (h_H, c_H), h_H

        zeros_H = jnp.zeros(self.width)
        return jax.lax.scan(step, (zeros_H, zeros_H), input_LG)[1]


@register("lstm")
class LSTM(SequenceModel):
    """An LSTM over the `tokens` of an episode: row i sees x_0 … x_i and y_0 … y_{i−1}.

    Token i goes through `Encoder`, `LSTMLayer` and a Linear to the logits. With T numbers a token and H the width, there are
    (T + 1) H + (H + 1) H + (2H + 1) 4H + (H + 1) C parameters.

    Example:
      >>> model = LSTM(num_classes=10, width=16)
      >>> logits_LC, params = model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32))
      >>> logits_LC.shape, model.state_size(num_features=64, length=20)
      ((20, 10), 32)
    """

    width: int = setting(256, "size of the encoder, the hidden and the cell state; 256 in the paper's table", minimum=1)
    layout: str = layout_setting()
    label_scale: float = label_scale_setting()
    dtype: str = dtype_setting()

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        tokens_LT = tokens(x_LX, y_L, self.num_classes, self.label_scale, self.layout)
        encoded_LH = Encoder(self.width, self.dtype, name="encoder")(tokens_LT)
        h_LH = LSTMLayer(self.width, self.dtype, name="lstm")(encoded_LH)
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LH)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns 2H, the sizes of h and c, whatever the episode."""
        return 2 * self.width


class OuterProductLayer(nn.Module):
    """The outer-product LSTM over the rows of x_LD from h = C = 0, with output h_LI, I = num_heads × head_size.

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
            h_I, cell_NFE = state
            z_N8E = rearrange(input_G + recurrent(h_I), "(N Z E) -> N Z E", N=self.num_heads, Z=8)
            keys_N3E, others_N3F, query_NE, output_NF = z_N8E[:, 0:3], z_N8E[:, 3:6], z_N8E[:, 6], z_N8E[:, 7]
            gates_3NFE = jnp.einsum("nrf,nre->rnfe", jnp.tanh(others_N3F), scale * jnp.tanh(keys_N3E))
            input_NFE, candidate_NFE, forget_NFE = gates_3NFE
            cell_NFE = nn.sigmoid(forget_NFE + 1) * cell_NFE + nn.sigmoid(input_NFE) * candidate_NFE
            h_NF = nn.sigmoid(output_NF) * jnp.tanh(jnp.einsum("nfe,ne->nf", cell_NFE, query_NE))
            return (h_NF.ravel(), cell_NFE), h_NF.ravel()

        start = jnp.zeros(inner), jnp.zeros((self.num_heads, self.head_size, self.head_size))
        return scan_in_segments(step, start, input_LG)


@register("outer_product_lstm")
class OuterProductLSTM(SequenceModel):
    """An LSTM with a state of d² numbers for parameters of order d²: row i sees x_0 … x_i and y_0 … y_{i−1}.

    This is not the "OP-LSTM" of Huisman et al. 2023, which is another meta-learner.
    Token i of `tokens` goes through `Encoder`, `OuterProductLayer` and a Linear to the logits. With T numbers a token, W
    the width and I = num_heads × head_size, there are (T + 1) W + (W + 1) W + (W + I + 1) 8I + 1 + (I + 1) C parameters.

    Example:
      >>> model = OuterProductLSTM(num_classes=10, width=16, num_heads=2, head_size=8)
      >>> logits_LC, params = model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32))
      >>> logits_LC.shape, model.state_size(num_features=64, length=20)
      ((20, 10), 144)
    """

    width: int = setting(64, "size of the encoder; the authors' is the head size", minimum=1)
    num_heads: int = setting(1, "heads, each with a separate state", minimum=1)
    head_size: int = setting(64, "d, size of a head, whose state is d × d", minimum=1)
    layout: str = layout_setting()
    label_scale: float = label_scale_setting()
    dtype: str = dtype_setting()

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        tokens_LT = tokens(x_LX, y_L, self.num_classes, self.label_scale, self.layout)
        encoded_LD = Encoder(self.width, self.dtype, name="encoder")(tokens_LT)
        h_LI = OuterProductLayer(self.num_heads, self.head_size, self.dtype, name="outer_product")(encoded_LD)
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LI)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns heads × (d² + d), whatever the episode."""
        return self.num_heads * (self.head_size**2 + self.head_size)


def keys(first_LM: jax.Array, second_LM: jax.Array) -> jax.Array:
    """Returns flat(tanh(first) ⊗ tanh(second)) row by row, of length K = M².

    Example:
      >>> keys(jnp.zeros((5, 3)), jnp.ones((5, 3))).shape
      (5, 9)
    """
    return rearrange(jnp.einsum("li,lj->lij", jnp.tanh(first_LM), jnp.tanh(second_LM)), "L I J -> L (I J)")


class FastWeightMemory(nn.Module):
    """A memory that writes a value at a key for each row of h_LH, then reads with another key: read_LM, M = memory_size.

    With [k1 (M), k2 (M), v (M), β (1)] and [r1 (M), r2 (M)] two linear functions of h, and memory F ∈ R^{M × M²}, at first 0:
      k = flat(tanh(k1) ⊗ tanh(k2)),  F ← F + σ(β) (tanh(v) − F k) ⊗ k,  read = F flat(tanh(r1) ⊗ tanh(r2)),
    and if `bounded` F ← F / max(1, ‖F‖) after each write, as in Schlag et al., with the norm of all entries.
    """

    memory_size: int
    bounded: bool
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
            if self.bounded:
                memory_MK = memory_MK * jax.lax.rsqrt(jnp.maximum(1.0, (memory_MK**2).sum()))
            return memory_MK, memory_MK @ read_key_K

        rows = keys(first_LM, second_LM), jnp.tanh(value_LM), nn.sigmoid(rate_L1), keys(*jnp.split(read_LF, 2, axis=1))
        return scan_in_segments(step, jnp.zeros((size, size**2)), rows)


@register("fast_weights")
class FastWeights(SequenceModel):
    """An LSTM with a fast-weight memory: row i sees x_0 … x_i and y_0 … y_{i−1}.

    It follows Schlag, Munkhdalai and Schmidhuber, "Learning Associative Inference Using Fast Weight Memory" (ICLR 2021), with
    one read. Their bound on the norm of the memory is a setting, which the authors of GPICL do without.
    h = LSTM(`tokens`) has no encoder before it, as in the authors' code. The result is
    logits = Linear(h + Linear(LayerNorm(read))), where `FastWeightMemory` makes the read of h. The norm has a scale and no
    offset. The LSTM does not see what is read. With T numbers a token, H the width and M = memory_size it has
    (T + H + 1) 4H + (H + 1)(3M + 1) + (H + 1) 2M + M + (M + 1) H + (H + 1) C parameters.

    Example:
      >>> model = FastWeights(num_classes=10, width=16, memory_size=4)
      >>> logits_LC, params = model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32))
      >>> logits_LC.shape, model.state_size(num_features=64, length=20)
      ((20, 10), 96)
    """

    width: int = setting(64, "size of the LSTM's hidden state", minimum=1)
    memory_size: int = setting(16, "M, size of values and of the two halves of a key; the memory is M × M²", minimum=1)
    bounded: bool = setting(False, "scale the memory down to norm 1 after a write that takes it above (Schlag et al. 2021)")
    layout: str = layout_setting()
    label_scale: float = label_scale_setting()
    dtype: str = dtype_setting()

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        tokens_LT = tokens(x_LX, y_L, self.num_classes, self.label_scale, self.layout)
        h_LH = LSTMLayer(self.width, self.dtype, name="lstm")(tokens_LT)
        read_LM = FastWeightMemory(self.memory_size, self.bounded, self.dtype, name="memory")(h_LH)
        normed_LM = nn.LayerNorm(epsilon=1e-5, use_bias=False, name="norm")(read_LM)
        h_LH = h_LH + Linear(self.width, self.dtype, name="read_out")(normed_LM)
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(h_LH)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns 2H + M³, the sizes of the LSTM's state and of the memory, whatever the episode."""
        return 2 * self.width + self.memory_size**3
