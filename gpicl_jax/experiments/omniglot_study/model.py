"""The network of the study, and a convolution with gradients that stay fast on a CPU."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpicl_jax.models.base import RowModel
from gpicl_jax.models.conv import check_images, images
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError, setting

_CHANNELS, _KERNEL = (6, 10, 12, 16), 5


@register("study_conv")
class StudyConv(RowModel):
    """The network of the study on Omniglot (`configs/omniglot/study.toml`).

    It has 5×5 convolutions to 6, 10, 12 and 16 channels, each with ReLU and 2×2 max-pooling, then a linear layer of 10, ReLU,
    and one logit z. The two classes have the logits (0, z). Without padding, as in the study, an image needs 76 pixels a side,
    and 92 to 107 for 64 numbers after the last pooling.

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
        halved = 2 ** len(_CHANNELS)
        fewest = halved + ((_KERNEL - 1) * (halved - 1) if config.model.padding == "VALID" else 0)
        if config.data.size < fewest:
            padded = "" if config.model.padding == "SAME" else ", or model.padding = 'SAME'"
            raise UserError(
                f"data.size = {config.data.size} is too small for model.name = 'study_conv' with model.padding = "
                f"{config.model.padding!r}; give {fewest} or more{padded}"
            )

    @nn.compact
    def __call__(self, x_LX: jax.Array) -> jax.Array:
        h_Lhwc = jnp.moveaxis(images(x_LX, 1), 0, 3)
        for layer, channels in enumerate(_CHANNELS):
            h_Lhwc = PooledConv(channels, self.padding, name=f"conv_{layer}")(h_Lhwc)
        h_LF = jnp.moveaxis(h_Lhwc, 3, 1).reshape(len(x_LX), -1)
        h_LF = nn.relu(_dense(10, h_LF.shape[1], "hidden")(h_LF))
        z_L1 = _dense(1, 10, "head")(h_LF)
        return jnp.concatenate([jnp.zeros_like(z_L1), z_L1], axis=1)


class PooledConv(nn.Module):
    """A 5×5 convolution with bias, ReLU, 2×2 max-pooling: [L, h, w, c] → [L, h', w', o]. `padding` is `VALID` or `SAME`.

    Bias and ReLU come last, on a quarter of the pixels. The result is the same, because x ↦ relu(x + b) never falls.
    """

    features: int
    padding: str

    @nn.compact
    def __call__(self, h_Lhwc: jax.Array) -> jax.Array:
        channels = h_Lhwc.shape[3]
        num_inputs = _KERNEL**2 * channels
        kernel_po = self.param("kernel", _uniform(num_inputs), (num_inputs, self.features))
        bias_o = self.param("bias", _uniform(num_inputs), (self.features,))
        if self.padding == "SAME":
            around = (_KERNEL // 2, _KERNEL // 2)
            h_Lhwc = jnp.pad(h_Lhwc, [(0, 0), around, around, (0, 0)])
        pooled_Lhwo = max_pool(convolve(h_Lhwc, kernel_po.reshape(_KERNEL, _KERNEL, channels, self.features)))
        return nn.relu(pooled_Lhwo + bias_o.reshape(1, 1, 1, -1))


def max_pool(h_Lhwc: jax.Array) -> jax.Array:
    """Returns the largest value of each 2×2 square, without an odd last row or column.

    Raises:
      ValueError: the image has no such square.
    """
    height, width = (length // 2 * 2 for length in h_Lhwc.shape[1:3])
    if not height or not width:
        raise ValueError("an image of one pixel is too small to be pooled; use larger images")
    h_Lhwc = h_Lhwc[:, :height, :width]
    rows = jnp.maximum(h_Lhwc[:, ::2], h_Lhwc[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def _dense(features: int, num_inputs: int, name: str) -> nn.Dense:
    uniform = _uniform(num_inputs)
    return nn.Dense(features, kernel_init=uniform, bias_init=uniform, name=name)


def _uniform(num_inputs: int) -> nn.initializers.Initializer:
    """Returns an initialiser, uniform within ± 1/√num_inputs as in PyTorch."""
    bound = num_inputs**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def _plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


_convolution = jax.custom_batching.custom_vmap(_plain)


@_convolution.def_vmap
def _(size: int, batched: list[bool], *given: jax.Array) -> tuple[jax.Array, bool]:
    """Applies a kernel for each problem. A CPU takes them in turns, since the grouped convolution of `vmap` is slow on it."""

    def grouped(*given: jax.Array) -> jax.Array:
        return jax.vmap(_plain, tuple(0 if own else None for own in batched))(*given)

    def in_turns(*given: jax.Array) -> jax.Array:
        each = [leaf if own else jnp.broadcast_to(leaf, (size, *leaf.shape)) for leaf, own in zip(given, batched, strict=True)]
        return jax.lax.map(lambda pair: _convolution(*pair), tuple(each))

    return jax.lax.platform_dependent(*given, cpu=in_turns, default=grouped), True


@jax.custom_vjp
def convolve(h_Lhwc: jax.Array, kernel_rrco: jax.Array) -> jax.Array:
    """Returns the convolution (cross-correlation) without padding and of stride 1, [L, h − r + 1, w − r + 1, o].

    It is bilinear, and so are its two gradients. All three are convolutions with axes in this order. Plain `jax.grad` makes
    another order, for which XLA on a CPU has no fast program within a loop: `lax.conv` took 8 times as long within a `scan` as
    outside. Under `vmap` over kernels a CPU takes them in turns. Derivatives of any order consist of these three. Forward mode
    is not supported.

    Args:
      h_Lhwc: L images, h × w pixels of c channels.
      kernel_rrco: r × r pixels, c channels to o features.

    Raises:
      ValueError: an image is smaller than the kernel.

    Example:
      >>> convolve(jnp.ones((2, 5, 5, 1)), jnp.ones((3, 3, 1, 4)))[0, 0, 0].tolist()
      [9.0, 9.0, 9.0, 9.0]
    """
    size = len(kernel_rrco)
    if min(h_Lhwc.shape[1:3]) < size:
        height, width = h_Lhwc.shape[1:3]
        raise ValueError(f"an image of {height}×{width} is too small for a kernel of {size}×{size}; use larger images")
    return _convolution(h_Lhwc, kernel_rrco)


def _input_gradient(slope_Lhwo: jax.Array, kernel_rrco: jax.Array) -> jax.Array:
    """Returns [L, h, w, c] from the output's gradient and the kernel."""
    around = (len(kernel_rrco) - 1,) * 2
    padded_Lhwo = jnp.pad(slope_Lhwo, [(0, 0), around, around, (0, 0)])
    return convolve(padded_Lhwo, kernel_rrco[::-1, ::-1].swapaxes(2, 3))


@jax.custom_vjp
def _kernel_gradient(h_Lhwc: jax.Array, slope_Lhwo: jax.Array) -> jax.Array:
    """Returns [r, r, c, o] from the input and the output's gradient, as a convolution with images and channels exchanged."""
    gradient_crro = _convolution(h_Lhwc.transpose(3, 1, 2, 0), slope_Lhwo.transpose(1, 2, 0, 3))
    return gradient_crro.transpose(1, 2, 0, 3)


convolve.defvjp(
    lambda h_Lhwc, kernel_rrco: (convolve(h_Lhwc, kernel_rrco), (h_Lhwc, kernel_rrco)),
    lambda saved, slope_Lhwo: (_input_gradient(slope_Lhwo, saved[1]), _kernel_gradient(saved[0], slope_Lhwo)),
)
_kernel_gradient.defvjp(
    lambda h_Lhwc, slope_Lhwo: (_kernel_gradient(h_Lhwc, slope_Lhwo), (h_Lhwc, slope_Lhwo)),
    lambda saved, slope_rrco: (_input_gradient(saved[1], slope_rrco), convolve(saved[0], slope_rrco)),
)
