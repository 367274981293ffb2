"""scikit-learn's handwritten digits: 1,797 images of 8×8."""

import functools
from pathlib import Path

import numpy as np

from gpicl_jax.data.stored import Dataset, Stored
from gpicl_jax.registry import register

# Images, not writers, are split: the set does not say who wrote what.
_SPLITS = {"train": slice(0, 1200), "validation": slice(1200, 1400), "test": slice(1400, 1797)}


@register("digits")
class Digits(Dataset):
    """scikit-learn's handwritten digits."""

    @classmethod
    @functools.cache
    def read(cls, name: str, folder: Path) -> Stored:
        del folder
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.RandomState(0).permutation(len(digits.target))  # RandomState: its stream is frozen for good
        # 0 … 16 becomes 0 … 240: exact, and fine enough to survive resizing
        images_NHWc = 15 * digits.images.astype(np.uint8)[order][..., None]
        labels_N = digits.target.astype(np.int32)[order]
        counts = {split: rows.stop - rows.start for split, rows in _SPLITS.items()}
        arrays = {split: (images_NHWc[rows], labels_N[rows]) for split, rows in _SPLITS.items()}
        return Stored(name, "scikit-learn", 10, counts, arrays.__getitem__, (8, 8, 1))
