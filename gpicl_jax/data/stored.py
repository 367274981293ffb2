"""What a dataset hands over: the arrays of its splits, on the host."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpicl_jax.settings import UserError

_AT_ONCE = 2**24
_MOST_CLASSES = 2**20
Arrays = tuple[np.ndarray, np.ndarray]  # uint8 [N, height, width, 1 or 3], integers [N]


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """A stored base dataset.

    Attributes:
      name: its name in tables and errors.
      where: folder, file or package, for people.
      num_classes: C over all splits.
      counts: images of each split, by the set's own names of splits.
      read: the set's name of a split -> its arrays.
      shape: declared height, width, channels, or None where images differ.
      rotations: quarter turns (1 or 4) of an image that are different classes. The r-th of class c is c · rotations + r.
    """

    name: str
    where: str
    num_classes: int
    counts: dict[str, int]
    read: Callable[[str], Arrays]
    shape: tuple[int | None, int | None, int | None]
    rotations: int = 1


class Dataset:
    """A base dataset that a config names. It registers itself under its name."""

    room, needs, given = "dataset", ("read",), ()

    @classmethod
    def read(cls, name: str, folder: Path) -> Stored:
        """Returns the stored set.

        Args:
          name: the name in the config. One class may have several.
          folder: folder of prepared TFDS sets.

        Raises:
          NotPrepared: it needs a TFDS set that is not in the folder.
        """
        raise NotImplementedError


Part = tuple[str, tuple[int, int]]  # a stored split, and which tenths of its images
_ALL = (0, 10)
_MANY = 100  # classes; and images of a class that can be divided
_THREE = {"test": (0, 2), "validation": (2, 3), "train": (3, 10)}
_TWO = {"validation": (0, 1), "train": (1, 10)}


def divide(stored: Stored) -> dict[str, Part]:
    """Returns which part of which stored split serves as `train`, `validation` and `test`. Other splits stay as they are.

    All test images serve as the test, or all validation images if the set has no test images. If no validation images are left,
    about 10% of the training images serve as validation. A single split is divided about 70/10/20, but a single `test` is not.

    Example:
      >>> splits = {"train": 60_000, "test": 10_000}
      >>> divide(Stored("mnist", "", 10, splits, None, (28, 28, 1)))["validation"]
      ('train', (0, 1))
    """
    whole = {split: (split, _ALL) for split in stored.counts}
    if len(whole) == 1 and "test" not in whole:
        (only,) = whole
        return {split: (only, tenths) for split, tenths in _THREE.items()}
    if "train" not in whole or {"validation", "test"} <= set(whole):
        return whole
    if "validation" in whole:
        whole["test"] = whole["validation"]
    return {**whole, **{split: ("train", tenths) for split, tenths in _TWO.items()}}


def part_rows(images_NHWc: np.ndarray, labels_N: np.ndarray, tenths: tuple[int, int]) -> np.ndarray:
    """Returns the rows of some tenths of a split. An image's content alone decides its tenth.

    So equal images are never in two parts, and an image stays in its part when others are added. A set of many small classes,
    such as Omniglot, is divided by class: a part has all images of its classes.
    """
    if tenths == _ALL:
        return np.arange(len(labels_N))
    classes = np.unique(labels_N)
    if len(classes) >= _MANY and len(labels_N) < _MANY * len(classes):
        tenth_of = {label: _tenth(str(label).encode()) for label in classes}
        tenth_N = np.array([tenth_of[label] for label in labels_N])
    else:
        tenth_N = np.array([_tenth(image.tobytes()) for image in images_NHWc])
    return np.flatnonzero((tenths[0] <= tenth_N) & (tenth_N < tenths[1]))


def _tenth(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) % 10


def check_labels(name: str, labels_N: np.ndarray, num_images: int, num_classes: int | None) -> None:
    """Raises `UserError` unless `labels_N` are `num_images` integers from 0 to `num_classes` − 1, of two classes or more."""
    if labels_N.shape != (num_images,) or labels_N.dtype.kind not in "iu":
        raise UserError(f"labels of '{name}' are {labels_N.dtype} {labels_N.shape}; expected {num_images} integers")
    if not num_images:
        raise UserError(f"'{name}' holds no image; expected labelled images of two classes or more")
    low, high = int(labels_N.min()), int(labels_N.max())
    top = _MOST_CLASSES if num_classes is None else num_classes
    if low < 0 or high >= top:
        upto = "" if num_classes is None else f" to {top - 1}"
        raise UserError(f"labels of '{name}' run from {low} to {high}; expected integers from 0{upto}")
    if low == high:
        raise UserError(f"'{name}' has images of one class only; expected two classes or more")


def pixel_statistics(images_NX: np.ndarray) -> tuple[float, float]:
    """Returns mean and standard deviation over all pixels of all images, one scalar each, as in the paper."""
    pixels = images_NX.reshape(-1)
    parts = (pixels[start : start + _AT_ONCE] for start in range(0, pixels.size, _AT_ONCE))  # bincount makes a copy
    histogram = sum(np.bincount(part, minlength=256) for part in parts)
    values = np.arange(256, dtype=np.float64)
    mean = float((histogram * values).sum() / histogram.sum())
    return mean, float(np.sqrt((histogram * (values - mean) ** 2).sum() / histogram.sum()))
