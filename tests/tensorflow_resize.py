"""What TensorFlow's own resize makes of a few images, kept in tensorflow_resize.npz.

With the extra [tf]: python -m tests.tensorflow_resize
"""

import itertools
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
SHAPES = ((28, 28, 1), (32, 32, 3), (105, 105, 1), (8, 8, 1))
TARGETS = ((14, 1), (32, 3), (8, 1))  # size, channels
CASES = {f"{shape} to {target}": (shape, target) for shape, target in itertools.product(SHAPES, TARGETS)}
_PER_GREY = 256  # a kept unit is so much less than a shade


def image(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (1, *shape), dtype=np.uint8)


def kept() -> dict[str, np.ndarray]:
    """Shades [1, size · size · channels] of each case, not rounded to whole ones."""
    with np.load(FILE) as file:
        return {name: file[name] / _PER_GREY for name in CASES}


def resized(shape: tuple[int, int, int], size: int, channels: int) -> np.ndarray:
    """Returns images that TensorFlow resized in float32, antialiased at 8×8 only."""
    import tensorflow

    shades = tensorflow.constant(image(shape))
    if channels < shape[2]:
        shades = tensorflow.image.rgb_to_grayscale(tensorflow.cast(shades, tensorflow.float32))
    shades = tensorflow.image.resize(shades, (size, size), antialias=size == 8).numpy()
    return np.broadcast_to(shades, (1, size, size, channels)).reshape(1, -1)


if __name__ == "__main__":
    shades = {name: resized(shape, *target) for name, (shape, target) in CASES.items()}
    np.savez_compressed(FILE, **{name: np.rint(_PER_GREY * each).astype(np.uint16) for name, each in shades.items()})
