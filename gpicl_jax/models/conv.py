"""Convolutional networks of few-shot problems: Finn's, and that of a public study of MAML on Omniglot.

A convolution is the product of its kernel with the patches that slices of the input are stacked to, channels first. In a
prototype on two CPU cores XLA's own convolution took 3 times as long, and 14 times under `vmap` over problems, where each has
weights of its own and it becomes a grouped convolution.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

_EPS = 1e-3  # of batch normalisation, as in Finn's code


class FewShotConv(nn.Module):
    """Finn's network (Finn et al. 2017, arXiv 1703.03400, section 5.2): `num_layers` × [3×3 convolution of stride 2, batch
    normalisation, ReLU], the mean over what is left of the image, then a linear layer.

    Batch normalisation always takes the statistics of the rows that it is given: rows see each other (transductive). Scale and
    offset are weights like others.

    Attributes:
      num_classes: C.
      width: filters.
      num_layers: convolutions.
      channels: of the images; X = side² · channels.

    Example:
      >>> model = FewShotConv(num_classes=5, width=8)
      >>> model.apply(model.init(jax.random.key(0), jnp.zeros((10, 784))), jnp.zeros((10, 784))).shape
      (10, 5)
    """

    num_classes: int
    width: int = 64
    num_layers: int = 4
    channels: int = 1

    transductive = True

    @nn.compact
    def __call__(self, x_LX: jax.Array) -> jax.Array:
        h_cLhw = images(x_LX, self.channels)
        for layer in range(self.num_layers):
            h_cLhw = Conv(self.width, kernel_size=3, stride=2, padding="SAME", use_bias=False, name=f"conv_{layer}")(h_cLhw)
            h_cLhw = nn.relu(BatchNorm(name=f"norm_{layer}")(h_cLhw))
        h_LF = h_cLhw.mean(axis=(2, 3)).T
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(1.0), name="head")(h_LF)


class StudyConv(nn.Module):
    """The network of the study (`configs/omniglot/study.toml`): 5×5 convolutions to 6, 10, 12 and 16 channels, each with ReLU
    and 2×2 max-pooling, a linear layer of 10, ReLU, and one logit z; the two classes have the logits (0, z).

    Without padding, as in the study, an image needs 76 pixels a side, and 92 to 107 for 64 numbers after the last pooling.

    Attributes:
      padding: `VALID`, or `SAME` for smaller images.

    Example:
      >>> model = StudyConv(padding="SAME")
      >>> model.apply(model.init(jax.random.key(0), jnp.zeros((10, 784))), jnp.zeros((10, 784))).shape
      (10, 2)
    """

    padding: str = "VALID"

    num_classes = 2

    @nn.compact
    def __call__(self, x_LX: jax.Array) -> jax.Array:
        h_cLhw = images(x_LX, 1)
        for layer, channels in enumerate((6, 10, 12, 16)):
            h_cLhw = nn.relu(Conv(channels, kernel_size=5, padding=self.padding, name=f"conv_{layer}")(h_cLhw))
            h_cLhw = max_pool(h_cLhw)
        h_LF = h_cLhw.swapaxes(0, 1).reshape(len(x_LX), -1)
        h_LF = nn.relu(_torch_dense(10, h_LF.shape[1], "hidden")(h_LF))
        z_L1 = _torch_dense(1, 10, "head")(h_LF)
        return jnp.concatenate([jnp.zeros_like(z_L1), z_L1], axis=1)


class Conv(nn.Module):
    """A convolution, channels first: [c, L, h, w] → [o, L, h', w']."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: str = "VALID"
    use_bias: bool = True

    @nn.compact
    def __call__(self, h_cLhw: jax.Array) -> jax.Array:
        patches_pLhw = patches(h_cLhw, self.kernel_size, self.stride, self.padding)
        num_inputs = len(patches_pLhw)
        init = _torch_uniform if self.use_bias else _xavier_uniform(self.kernel_size)
        kernel_po = self.param("kernel", init, (num_inputs, self.features))
        h_oLhw = jnp.einsum("po,plhw->olhw", kernel_po, patches_pLhw)
        if self.use_bias:
            bias_o = self.param("bias", _torch_uniform_bias(num_inputs), (self.features,))
            h_oLhw = h_oLhw + bias_o[:, None, None, None]
        return h_oLhw


class BatchNorm(nn.Module):
    """Mean 0 and variance 1 of each channel over the rows and pixels that are given, then scale and offset."""

    @nn.compact
    def __call__(self, h_cLhw: jax.Array) -> jax.Array:
        shape = (len(h_cLhw), 1, 1, 1)
        scale = self.param("scale", nn.initializers.ones, (len(h_cLhw),)).reshape(shape)
        bias = self.param("bias", nn.initializers.zeros, (len(h_cLhw),)).reshape(shape)
        mean = h_cLhw.mean(axis=(1, 2, 3), keepdims=True)
        centred = h_cLhw - mean
        variance = (centred**2).mean(axis=(1, 2, 3), keepdims=True)
        return centred * (scale * jax.lax.rsqrt(variance + _EPS)) + bias


def images(x_LX: jax.Array, channels: int) -> jax.Array:
    """Flattened square images (row, column, channel) as [c, L, h, w].

    Raises:
      ValueError: X is no side² · channels.
    """
    side = math.isqrt(x_LX.shape[1] // channels)
    if side * side * channels != x_LX.shape[1]:
        raise ValueError(f"inputs of {x_LX.shape[1]} numbers are no square images of {channels} channels")
    return jnp.moveaxis(x_LX.reshape(-1, side, side, channels), 3, 0)


def patches(h_cLhw: jax.Array, size: int, stride: int, padding: str) -> jax.Array:
    """All size × size patches as columns: [size · size · c, L, h', w'], ordered by row, column and channel of the patch.

    Raises:
      ValueError: an image is smaller than a patch.

    Example:
      >>> patches(jnp.arange(9.0).reshape(1, 1, 3, 3), size=2, stride=1, padding="VALID")[:, 0, 0, 0].tolist()
      [0.0, 1.0, 3.0, 4.0]
    """
    height, width = h_cLhw.shape[2:]
    if padding == "SAME":
        pads = [_same_padding(length, size, stride) for length in (height, width)]
        h_cLhw = jnp.pad(h_cLhw, [(0, 0), (0, 0), *pads])
    rows, columns = ((length - size) // stride + 1 for length in h_cLhw.shape[2:])
    if rows < 1 or columns < 1:
        raise ValueError(f"an image of {height}×{width} is too small for a patch of {size}×{size}; use larger images")
    corners = [(row, column) for row in range(size) for column in range(size)]
    slices = [
        h_cLhw[:, :, row : row + stride * rows : stride, column : column + stride * columns : stride] for row, column in corners
    ]
    return jnp.concatenate(slices)


def _same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    """As TensorFlow and XLA pad: ⌈length / stride⌉ patches, the odd pixel at the end."""
    total = max(0, (-(-length // stride) - 1) * stride + size - length)
    return total // 2, total - total // 2


def max_pool(h_cLhw: jax.Array) -> jax.Array:
    """The largest of each 2×2 square; an odd last row or column is left out.

    Raises:
      ValueError: there is no such square.
    """
    height, width = (length // 2 * 2 for length in h_cLhw.shape[2:])
    if not height or not width:
        raise ValueError("an image of one pixel is too small to be pooled; use larger images")
    h_cLhw = h_cLhw[:, :, :height, :width]
    rows = jnp.maximum(h_cLhw[:, :, ::2], h_cLhw[:, :, 1::2])
    return jnp.maximum(rows[..., ::2], rows[..., 1::2])


def _xavier_uniform(size: int) -> nn.initializers.Initializer:
    """Uniform within ± √(6 / (size² · (channels + features))), Glorot & Bengio 2010, of a kernel that is given as a matrix."""

    def init(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        kernel_hwio = nn.initializers.xavier_uniform()(key, (size, size, shape[0] // size**2, shape[1]), dtype)
        return kernel_hwio.reshape(shape)

    return init


def _torch_dense(features: int, num_inputs: int, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=_torch_uniform, bias_init=_torch_uniform_bias(num_inputs), name=name)


def _torch_uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Uniform within ± 1/√(inputs), PyTorch's own initialisation."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _torch_uniform_bias(num_inputs: int) -> nn.initializers.Initializer:
    bound = num_inputs**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)
