"""Finn's convolutional network for few-shot problems."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.models.base import RowModel
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError, setting

_EPS = 1e-3  # of batch normalisation, as in Finn's code
_KERNEL, _STRIDE = 3, 2


def check_images(config: Any) -> None:
    """Raises UserError where the examples are no images."""
    if config.data.features:
        raise UserError(
            f"model.name = {config.model.name!r} is for images, and data.features = {config.data.features} are none"
        )


@register("few_shot_conv")
class FewShotConv(RowModel):
    """Finn's network (Finn et al. 2017, arXiv 1703.03400, section 5.2): `num_layers` × [3×3 convolution of stride 2, batch
    normalisation, ReLU], the mean over the remaining pixels, then a linear layer.

    Batch normalisation always takes the statistics of the given rows, so rows see each other (transductive). It has an offset
    and no scale. MAML's inner loop does not change the offset. Both are as in Finn's code (cbfinn/maml).

    Attributes:
      channels: channels of the images: X = side² · channels.

    Example:
      >>> model = FewShotConv(num_classes=5, width=8)
      >>> model.apply(model.init(jax.random.key(0), jnp.zeros((10, 784))), jnp.zeros((10, 784))).shape
      (10, 5)
    """

    channels: int = 1
    width: int = setting(64, "filters of a convolution", minimum=1)
    num_layers: int = setting(4, "convolutions", minimum=1)

    transductive = True

    @classmethod
    def check(cls, config: Any) -> None:
        check_images(config)
        if not config.tasks.num_context:
            raise UserError("model.name = 'few_shot_conv' needs a context of one size; set tasks.num_context")

    @nn.compact
    def __call__(self, x_LX: jax.Array) -> jax.Array:
        h_cLhw = images(x_LX, self.channels)
        for layer in range(self.num_layers):
            h_cLhw = PatchConv(self.width, name=f"conv_{layer}")(h_cLhw)
            h_cLhw = nn.relu(BatchNorm(name=f"batch_norm_{layer}")(h_cLhw))
        h_LF = h_cLhw.mean(axis=(2, 3)).T
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(1.0), name="head")(h_LF)


class PatchConv(nn.Module):
    """A 3×3 convolution of stride 2 without bias, padding `SAME`: [c, L, h, w] → [o, L, h', w'], as a product with patches.

    Under `vmap` over problems with different kernels, `lax.conv` would become a grouped convolution, which took 14 times as
    long on two CPU cores in a prototype.
    """

    features: int

    @nn.compact
    def __call__(self, h_cLhw: jax.Array) -> jax.Array:
        patches_pLhw = patches(h_cLhw)
        kernel_po = self.param("kernel", _xavier_uniform, (len(patches_pLhw), self.features))
        return jnp.einsum("po,plhw->olhw", kernel_po, patches_pLhw)


class BatchNorm(nn.Module):
    """Batch normalisation: mean 0 and variance 1 of each channel over all rows and pixels, then an offset: [c, L, h, w]."""

    @nn.compact
    def __call__(self, h_cLhw: jax.Array) -> jax.Array:
        bias_c = self.param("bias", nn.initializers.zeros, (len(h_cLhw),))
        centred = h_cLhw - h_cLhw.mean(axis=(1, 2, 3), keepdims=True)
        variance = (centred**2).mean(axis=(1, 2, 3), keepdims=True)
        return centred * jax.lax.rsqrt(variance + _EPS) + bias_c[:, None, None, None]


def images(x_LX: jax.Array, channels: int) -> jax.Array:
    """Returns flattened square images (row, column, channel) as [c, L, h, w].

    Raises:
      ValueError: X is no side² · channels.
    """
    side = math.isqrt(x_LX.shape[1] // channels)
    if side * side * channels != x_LX.shape[1]:
        raise ValueError(f"inputs of {x_LX.shape[1]} numbers are no square images of {channels} channels")
    return jnp.moveaxis(x_LX.reshape(-1, side, side, channels), 3, 0)


def _xavier_uniform(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Draws a kernel, as a matrix, uniform within ± √(6 / (size² · (channels + features))) (Glorot & Bengio 2010)."""
    kernel_hwio = nn.initializers.xavier_uniform()(key, (_KERNEL, _KERNEL, shape[0] // _KERNEL**2, shape[1]))
    return kernel_hwio.reshape(shape)


def patches(h_cLhw: jax.Array) -> jax.Array:
    """Returns all patches of padded images as columns: [size · size · c, L, h', w'], by row, column, channel of the patch.

    Example:
      >>> patches(jnp.arange(1, 10.0).reshape(1, 1, 3, 3))[:, 0, 0, 0].tolist()
      [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 4.0, 5.0]
    """
    around = jax.lax.padtype_to_pads(h_cLhw.shape[2:], (_KERNEL, _KERNEL), (_STRIDE, _STRIDE), "SAME")
    h_cLhw = jnp.pad(h_cLhw, [(0, 0), (0, 0), *around])
    rows, columns = (length - _KERNEL + 1 for length in h_cLhw.shape[2:])
    corners = [(row, column) for row in range(_KERNEL) for column in range(_KERNEL)]
    slices = [h_cLhw[:, :, row : row + rows : _STRIDE, column : column + columns : _STRIDE] for row, column in corners]
    return jnp.concatenate(slices)
