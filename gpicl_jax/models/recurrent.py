"""What the recurrent models share: the encoder of a token, the linear layer of the gates, and the LSTM over an episode.

As in the authors' code (google/learned_optimization, folder research/data_driven, commit 32186aa; models.py).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.models.layers import fan_in_normal


def product(rows: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """rows @ kernel with both rounded to `dtype`; float32, so that sums over time, of gradients too, are float32."""
    return (rows.astype(dtype) @ kernel.astype(dtype)).astype(jnp.float32)


class Linear(nn.Module):
    """x_LD W + b, float32, whatever the `dtype` of the product."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_LD: jax.Array) -> jax.Array:
        kernel_DF = self.param("kernel", fan_in_normal, (x_LD.shape[1], self.features))
        bias_F = self.param("bias", nn.initializers.zeros, (self.features,))
        return product(x_LD, kernel_DF, self.dtype) + bias_F[None]


class Encoder(nn.Module):
    """Linear, ReLU, Linear, ReLU on every token by itself."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_LX: jax.Array) -> jax.Array:
        for layer in ("linear_0", "linear_1"):
            x_LX = nn.relu(Linear(self.width, self.dtype, name=layer)(x_LX))
        return x_LX


class Gates(nn.Module):
    """z_i = [x_i, h_{i−1}] W + b in two parts: W x_i + b for all i in one product, and the function h ↦ h W of a step.

    One kernel [D + H, G], the inputs' rows first: its initialiser sees the fan-in of both.
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
    """Runs an LSTM over the rows of x_LD from h = c = 0 and returns h_LH.

    With [i, f, g, o] = [x, h] W + b (Hochreiter & Schmidhuber 1997; the + 1 on the forget gate as in Haiku's LSTM):
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
        _, h_LH = jax.lax.scan(step, (zeros_H, zeros_H), input_LG)
        return h_LH
