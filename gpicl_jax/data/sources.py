"""Where base datasets come from. Today: the handwritten digits that scikit-learn carries (8×8, 1,797 images)."""

import functools

import numpy as np

from gpicl_jax.data.images import ImageDataset, pixel_statistics

# 1,797 digits: images, not writers, are split (the set does not say who wrote what).
_DIGITS_SPLITS = {"train": slice(0, 1200), "validation": slice(1200, 1400), "test": slice(1400, 1797)}


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))  # RandomState: its stream is frozen for good
    return digits.data.astype(np.uint8)[order], digits.target.astype(np.int32)[order]


def load(name: str, split: str) -> ImageDataset:
    """Loads one split of a base dataset, standardised by its training split.

    Args:
      name: `digits`.
      split: `train`, `validation` or `test`; no image is in two of them.

    Raises:
      ValueError: an unknown set or split.

    Example:
      >>> load("digits", "test").images_NX.shape
      (397, 64)
    """
    if name != "digits":
        raise ValueError(f"no dataset '{name}'; available: {', '.join(available())}")
    if split not in _DIGITS_SPLITS:
        raise ValueError(f"'{name}' has no split '{split}'; available: {', '.join(_DIGITS_SPLITS)}")
    images_NX, labels_N = _digits()
    mean, std = pixel_statistics(images_NX[_DIGITS_SPLITS["train"]])
    part = _DIGITS_SPLITS[split]
    return ImageDataset.build(images_NX[part], labels_N[part], mean=mean, std=std, name=name, num_classes=10)


def available() -> dict[str, str]:
    """Known base datasets, each with one line about it."""
    sizes = ", ".join(f"{split} {part.stop - part.start:,}" for split, part in _DIGITS_SPLITS.items())
    return {"digits": f"ready, inside scikit-learn: 8×8×1, 10 classes, {sizes} images"}
