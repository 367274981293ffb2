"""From stored images to images for learning: one size, one number of channels, uint8."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.settings import UserError

# The paper's two sizes are made as its authors made them, by `tf.image.resize`, which does not antialias.
_PAPER_SHAPES = ((14, 14, 1), (32, 32, 3))
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, `tf.image.rgb_to_grayscale` has 0.2989, 0.5870, 0.1140
_BYTES_AT_ONCE = 2**28  # of float32 pixels


def resized(images_NHWc: np.ndarray, size: int | None, channels: int | None) -> np.ndarray:
    """Resizes on the device, some images at a time, and rounds to uint8 once at the end.

    Interpolation is bilinear, and antialiased where an image shrinks, except to 14×14×1 and 32×32×3 (the paper's sizes). There
    the result equals `tf.image.resize` up to rounding.

    Args:
      images_NHWc: uint8 [N, height, width, 1 or 3].
      size: height and width of the result. None keeps them.
      channels: 1 (grey, luma of ITU-R BT.601) or 3 (grey is copied). None keeps them.

    Returns:
      uint8 [N, X], X = height · width · channels.

    Example:
      >>> resized(np.full((2, 28, 28, 1), 7, np.uint8), 14, 1).shape
      (2, 196)
    """
    number, height, width, stored = images_NHWc.shape
    shape = (size or height, size or width, channels or stored)
    if shape == images_NHWc.shape[1:]:
        return images_NHWc.reshape(number, -1)
    at_once = max(1, _BYTES_AT_ONCE // (4 * height * width * stored))
    parts = (images_NHWc[start : start + at_once] for start in range(0, number, at_once))
    return np.concatenate([np.asarray(_resized(part, shape)) for part in parts])


@functools.partial(jax.jit, static_argnames="shape")
def _resized(images_NHWc: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    values_NHWc = images_NHWc.astype(jnp.float32)
    if shape[2] < images_NHWc.shape[3]:
        values_NHWc = (values_NHWc * jnp.array(_LUMA)[None, None, None]).sum(axis=3, keepdims=True)
    resized = (len(images_NHWc), *shape[:2], values_NHWc.shape[3])
    values_NHWc = jax.image.resize(values_NHWc, resized, "linear", antialias=shape not in _PAPER_SHAPES)
    values_NHWc = jnp.broadcast_to(values_NHWc, (*resized[:3], shape[2]))
    return jnp.round(values_NHWc).clip(0, 255).astype(jnp.uint8).reshape(len(images_NHWc), -1)


def check_device_memory(name: str, num_images: int, num_features: int) -> None:
    """Checks that the images fit into the free memory of the device.

    Raises:
      UserError: they do not. It gives both sizes, and the settings that help.
    """
    needed, free, device = num_images * num_features, *device_memory()
    if needed > free:
        raise UserError(
            f"'{name}' needs {needed / 1e9:.3g} GB ({num_images:,} images of {num_features:,} bytes), but {device} has "
            f"{free / 1e9:.3g} GB; lower data.size, or data.channels"
        )


def device_memory(device: jax.Device | None = None) -> tuple[int, str]:
    """Returns the free bytes of a device, by default the first, and its name. On a CPU they are those of the machine."""
    device = device or jax.local_devices()[0]
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"], str(device)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), str(device)
