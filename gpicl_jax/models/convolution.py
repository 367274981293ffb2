"""Two ways to convolve: by `lax.conv`, with gradients that stay fast on a CPU, and as a product with stacked patches."""

import jax
import jax.numpy as jnp


def _plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


_convolution = jax.custom_batching.custom_vmap(_plain)


@_convolution.def_vmap
def _(size: int, batched: list[bool], *given: jax.Array) -> tuple[jax.Array, bool]:
    """A kernel for each problem: in turns on a CPU, where the grouped convolution that `vmap` makes of them is slow."""
    if jax.default_backend() != "cpu":
        return jax.vmap(_plain, tuple(0 if own else None for own in batched))(*given), True
    pairs = [each if own else jnp.broadcast_to(each, (size, *each.shape)) for each, own in zip(given, batched, strict=True)]
    return jax.lax.map(lambda pair: _convolution(*pair), tuple(pairs)), True


@jax.custom_vjp
def convolve(h_Lhwc: jax.Array, kernel_rrco: jax.Array) -> jax.Array:
    """The convolution (cross-correlation) without padding and of stride 1, [L, h − r + 1, w − r + 1, o].

    It is bilinear, and so are its two gradients. All three are written as convolutions whose axes lie as here, because within a
    loop XLA on a CPU has no fast program for others, which plain `jax.grad` makes: `lax.conv` with another order of axes took 8
    times as long within a `scan` as outside. Under `vmap` over kernels a CPU takes them in turns. Derivatives of any order are
    made of these three; there is no forward mode.

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
    """Of the output's gradient and the kernel: [L, h, w, c]."""
    around = (len(kernel_rrco) - 1,) * 2
    padded_Lhwo = jnp.pad(slope_Lhwo, [(0, 0), around, around, (0, 0)])
    return convolve(padded_Lhwo, kernel_rrco[::-1, ::-1].swapaxes(2, 3))


@jax.custom_vjp
def _kernel_gradient(h_Lhwc: jax.Array, slope_Lhwo: jax.Array) -> jax.Array:
    """Of the input and the output's gradient: [r, r, c, o]. Channels are the images here, and images the channels."""
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


def patches(h_cLhw: jax.Array, size: int, stride: int) -> jax.Array:
    """All size × size patches of padded images as columns: [size · size · c, L, h', w'], by row, column, channel of the patch.

    Example:
      >>> patches(jnp.arange(1, 10.0).reshape(1, 1, 3, 3), size=3, stride=2)[:, 0, 0, 0].tolist()
      [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 4.0, 5.0]
    """
    h_cLhw = jnp.pad(h_cLhw, [(0, 0), (0, 0), *(same_padding(length, size, stride) for length in h_cLhw.shape[2:])])
    rows, columns = ((length - size) // stride + 1 for length in h_cLhw.shape[2:])
    corners = [(row, column) for row in range(size) for column in range(size)]
    slices = [
        h_cLhw[:, :, row : row + stride * rows : stride, column : column + stride * columns : stride] for row, column in corners
    ]
    return jnp.concatenate(slices)


def same_padding(length: int, size: int, stride: int = 1) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow and XLA pad: for ⌈length / stride⌉ patches, the odd pixel at the end.

    Example:
      >>> same_padding(28, 3, 2), same_padding(28, 5)
      ((0, 1), (2, 2))
    """
    total = max(0, (-(-length // stride) - 1) * stride + size - length)
    return total // 2, total - total // 2
