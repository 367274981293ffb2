"""Convolutional networks of few-shot problems: Finn's, and that of a public study of MAML on Omniglot."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.models.base import RowModel
from gpicl_jax.models.convolution import convolve, patches, same_padding
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError, setting

_EPS = 1e-3  # of batch normalisation, as in Finn's code
_STUDY_CHANNELS, _STUDY_KERNEL = (6, 10, 12, 16), 5


def check_images(config: Any) -> None:
    """Raises UserError where the examples are no images."""
    if config.data.features:
        raise UserError(
            f"model.name = {config.model.name!r} is for images, and data.features = {config.data.features} are none"
        )


def fewest_pixels(padding: str) -> int:
    """Returns the smallest side of an image of which the study's network leaves a pixel.

    Example:
      >>> fewest_pixels("VALID"), fewest_pixels("SAME")
      (76, 16)
    """
    side = 1
    for _ in _STUDY_CHANNELS:
        side = 2 * side + (_STUDY_KERNEL - 1 if padding == "VALID" else 0)
    return side


@register("few_shot_conv")
class FewShotConv(RowModel):
    """Finn's network (Finn et al. 2017, arXiv 1703.03400, section 5.2): `num_layers` × [3×3 convolution of stride 2, batch
    normalisation, ReLU], the mean over what is left of the image, then a linear layer.

    Batch normalisation always takes the statistics of the rows that it is given: rows see each other (transductive). It has an
    offset and no scale, and MAML's inner loop leaves the offset as it is; both as in Finn's code (cbfinn/maml).

    Attributes:
      channels: of the images; X = side² · channels.

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
            h_cLhw = PatchConv(self.width, kernel_size=3, stride=2, name=f"conv_{layer}")(h_cLhw)
            h_cLhw = nn.relu(BatchNorm(name=f"batch_norm_{layer}")(h_cLhw))
        h_LF = h_cLhw.mean(axis=(2, 3)).T
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(1.0), name="head")(h_LF)


@register("study_conv")
class StudyConv(RowModel):
    """The network of the study (`configs/omniglot/study.toml`): 5×5 convolutions to 6, 10, 12 and 16 channels, each with ReLU
    and 2×2 max-pooling, a linear layer of 10, ReLU, and one logit z; the two classes have the logits (0, z).

    Without padding, as in the study, an image needs 76 pixels a side, and 92 to 107 for 64 numbers after the last pooling.

    Example:
      >>> model = StudyConv(padding="SAME")
      >>> model.apply(model.init(jax.random.key(0), jnp.zeros((10, 784))), jnp.zeros((10, 784))).shape
      (10, 2)
    """

    num_classes: int = 2
    padding: str = setting("VALID", "SAME for images below 76 pixels a side", choices=("VALID", "SAME"))

    @classmethod
    def check(cls, config: Any) -> None:
        check_images(config)
        if config.tasks.classes_per_task != 2:
            raise UserError("model.name = 'study_conv' is for two classes; set tasks.classes_per_task = 2")
        if config.data.channels != 1:
            raise UserError("model.name = 'study_conv' is for grey images; set data.channels = 1")
        fewest = fewest_pixels(config.model.padding)
        if config.data.size < fewest:
            padded = "" if config.model.padding == "SAME" else ", or model.padding = 'SAME'"
            raise UserError(
                f"data.size = {config.data.size} is too small for model.name = 'study_conv' with model.padding = "
                f"{config.model.padding!r}; give {fewest} or more{padded}"
            )

    @nn.compact
    def __call__(self, x_LX: jax.Array) -> jax.Array:
        h_Lhwc = jnp.moveaxis(images(x_LX, 1), 0, 3)
        for layer, channels in enumerate(_STUDY_CHANNELS):
            h_Lhwc = PooledConv(channels, kernel_size=_STUDY_KERNEL, padding=self.padding, name=f"conv_{layer}")(h_Lhwc)
        h_LF = jnp.moveaxis(h_Lhwc, 3, 1).reshape(len(x_LX), -1)
        h_LF = nn.relu(_torch_dense(10, h_LF.shape[1], "hidden")(h_LF))
        z_L1 = _torch_dense(1, 10, "head")(h_LF)
        return jnp.concatenate([jnp.zeros_like(z_L1), z_L1], axis=1)


class PooledConv(nn.Module):
    """A convolution with bias, ReLU, 2×2 max-pooling: [L, h, w, c] → [L, h', w', o]. `padding` is `VALID` or `SAME`.

    Bias and ReLU come last, of a quarter of the pixels: x ↦ relu(x + b) never falls, so the largest of four stays the largest.
    """

    features: int
    kernel_size: int
    padding: str = "VALID"

    @nn.compact
    def __call__(self, h_Lhwc: jax.Array) -> jax.Array:
        size, channels = self.kernel_size, h_Lhwc.shape[3]
        num_inputs = size**2 * channels
        kernel_po = self.param("kernel", _torch_uniform, (num_inputs, self.features))
        bias_o = self.param("bias", _torch_uniform_bias(num_inputs), (self.features,))
        if self.padding == "SAME":
            h_Lhwc = jnp.pad(h_Lhwc, [(0, 0), *(same_padding(length, size) for length in h_Lhwc.shape[1:3]), (0, 0)])
        pooled_Lhwo = max_pool(convolve(h_Lhwc, kernel_po.reshape(size, size, channels, self.features)))
        return nn.relu(pooled_Lhwo + bias_o.reshape(1, 1, 1, -1))


class PatchConv(nn.Module):
    """A convolution without bias, padding `SAME`, channels first: [c, L, h, w] → [o, L, h', w'], as a product with patches.

    Under `vmap` over problems, each of which has a kernel of its own, `lax.conv` would become a grouped convolution, which took
    14 times as long on two CPU cores in a prototype.
    """

    features: int
    kernel_size: int
    stride: int

    @nn.compact
    def __call__(self, h_cLhw: jax.Array) -> jax.Array:
        patches_pLhw = patches(h_cLhw, self.kernel_size, self.stride)
        kernel_po = self.param("kernel", _xavier_uniform(self.kernel_size), (len(patches_pLhw), self.features))
        return jnp.einsum("po,plhw->olhw", kernel_po, patches_pLhw)


class BatchNorm(nn.Module):
    """Mean 0 and variance 1 of each channel over the rows and pixels that are given, then an offset: [c, L, h, w]."""

    @nn.compact
    def __call__(self, h_cLhw: jax.Array) -> jax.Array:
        bias_c = self.param("bias", nn.initializers.zeros, (len(h_cLhw),))
        centred = h_cLhw - h_cLhw.mean(axis=(1, 2, 3), keepdims=True)
        variance = (centred**2).mean(axis=(1, 2, 3), keepdims=True)
        return centred * jax.lax.rsqrt(variance + _EPS) + bias_c[:, None, None, None]


def images(x_LX: jax.Array, channels: int) -> jax.Array:
    """Flattened square images (row, column, channel) as [c, L, h, w].

    Raises:
      ValueError: X is no side² · channels.
    """
    side = math.isqrt(x_LX.shape[1] // channels)
    if side * side * channels != x_LX.shape[1]:
        raise ValueError(f"inputs of {x_LX.shape[1]} numbers are no square images of {channels} channels")
    return jnp.moveaxis(x_LX.reshape(-1, side, side, channels), 3, 0)


def max_pool(h_Lhwc: jax.Array) -> jax.Array:
    """The largest of each 2×2 square; an odd last row or column is left out.

    Raises:
      ValueError: there is no such square.
    """
    height, width = (length // 2 * 2 for length in h_Lhwc.shape[1:3])
    if not height or not width:
        raise ValueError("an image of one pixel is too small to be pooled; use larger images")
    h_Lhwc = h_Lhwc[:, :height, :width]
    rows = jnp.maximum(h_Lhwc[:, ::2], h_Lhwc[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


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
