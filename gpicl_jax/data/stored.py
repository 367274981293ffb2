"""What every source of images hands over: the arrays of its splits, on the host, as they are stored."""

import dataclasses
from collections.abc import Callable

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]  # uint8 [N, height, width, 1 or 3], integers [N]


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """A base dataset as it is stored.

    Attributes:
      name: as it was asked for.
      where: for people: the folder, file or package.
      num_classes: C over all splits.
      counts: images of each split, by the split's own name.
      read: a split's own name -> its arrays.
      shape: height, width, channels.
    """

    name: str
    where: str
    num_classes: int
    counts: dict[str, int]
    read: Callable[[str], Arrays]
    shape: tuple[int, int, int]


Part = tuple[str, tuple[int, int]]  # a stored split, and which tenths of its images
_ALL = (0, 10)
_THREE = {"test": (0, 2), "validation": (2, 3), "train": (3, 10)}
_TWO = {"validation": (0, 1), "train": (1, 10)}


def divide(stored: Stored) -> dict[str, Part]:
    """Which part of which stored split serves as `train`, `validation` and `test`; other splits serve as they are.

    A set with test images keeps them all for the test; validation images, where there are none, are 10% of the training
    images. A set with one split is divided 70/10/20, unless that split is called test: then there is no other.

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


def part_rows(num_images: int, tenths: tuple[int, int]) -> np.ndarray:
    """Rows of some tenths of a split, in a fixed random order, so that no image is in two parts; sorted."""
    order_N = np.random.RandomState(0).permutation(num_images)  # RandomState: its stream is frozen for good
    start, stop = (tenth * num_images // 10 for tenth in tenths)
    return np.sort(order_N[start:stop])
