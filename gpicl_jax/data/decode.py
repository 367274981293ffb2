"""From the bytes of image files to one uint8 array."""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from gpicl_jax.settings import UserError, one_line

_GREY_MODES = ("1", "L", "LA")
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")


def decode_images(name: str, files: Iterable[tuple[str, bytes]]) -> np.ndarray:
    """Decodes (what, bytes) pairs with Pillow. A 1-bit image becomes {0, 255}. Transparent pixels become white.

    Args:
      name: name of the dataset, for errors.
      files: what each image is, for errors, and its PNG, JPEG … bytes.

    Returns:
      uint8 [N, height, width, channels], one channel where all images are grey, else three.

    Raises:
      UserError: bytes that are no image, images of different sizes, or more than 8 bits a channel.
    """
    images, size, first = [], "", ""
    for what, content in files:
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
        except Exception as error:  # damage shows as whatever Pillow's readers happen to raise
            raise UserError(f"'{name}': {what} is no readable image ({one_line(error)}); restore or delete it") from None
        if image.mode in _DEEP_MODES:
            raise UserError(f"'{name}': {what} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
        own = f"{image.width}×{image.height}"
        size, first = size or own, first or what
        if own != size:
            raise UserError(
                f"'{name}' mixes image sizes: {first} is {size} pixels, {what} is {own}; resize them to one size first"
            )
        grey = image.mode in _GREY_MODES
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        images.append(np.asarray(image.convert("L" if grey else "RGB")))
    if any(image.ndim == 3 for image in images):
        return np.stack([image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in images])
    return np.stack(images)[:, :, :, None]
