"""A set of labelled images as it sits on the device: uint8 pixels, integer labels, two numbers that standardise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.settings import UserError

_AT_ONCE = 2**24
_MOST_CLASSES = 2**20


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Labelled images of one split, stored class by class.

    Attributes:
      images_NX: uint8 [N, X], one flattened image (row, column, channel) a row, sorted by label.
      labels_N: int32 [N], 0 … num_classes − 1.
      counts_C: int32 [C], images of each class; images of class c begin at row `counts_C[:c].sum()`.
      present_P: int32 [P], the classes that have images here.
      mean: float32 scalar, mean over all pixels of the *training* split, in pixel units.
      std: float32 scalar, standard deviation likewise.
      name: for records and tables, e.g. `mnist`.
      statistics: the split that mean and std are from: `train`, or the only one that the set has.
      rotations: quarter turns of an image that are classes of their own, one after another; a task shows one of them at most.

    Example:
      >>> digits = ImageDataset.build(np.zeros((5, 64), np.uint8), [2, 1, 0, 1, 2], mean=1.0, std=2.0, name="mine")
      >>> digits.num_images, digits.num_features, digits.num_classes, digits.labels_N.tolist()
      (5, 64, 3, [0, 1, 1, 2, 2])
    """

    images_NX: jax.Array
    labels_N: jax.Array
    counts_C: jax.Array
    present_P: jax.Array
    mean: jax.Array
    std: jax.Array
    name: str = dataclasses.field(metadata={"static": True})
    statistics: str = dataclasses.field(default="train", metadata={"static": True})
    rotations: int = dataclasses.field(default=1, metadata={"static": True})

    @classmethod
    def build(
        cls,
        images_NX,
        labels_N,
        *,
        mean: float,
        std: float,
        name: str,
        num_classes: int | None = None,
        statistics: str = "train",
        rotations: int = 1,
    ) -> "ImageDataset":
        """Checks the arrays, sorts them by class and moves them to the device, once.

        Raises:
          UserError: images are not uint8 [N, X], labels not N integers below `num_classes`, all pixels are alike, or a class is
            there without its other turns.
        """
        images_NX, labels_N = np.asarray(images_NX), np.asarray(labels_N)
        if images_NX.dtype != np.uint8 or images_NX.ndim != 2:
            raise UserError(f"images of '{name}' are {images_NX.dtype} {images_NX.shape}; expected uint8 of shape [N, X]")
        check_labels(name, labels_N, len(images_NX), num_classes)
        if not std > 0:
            raise UserError(f"standard deviation of '{name}' is {std}; expected a positive number: its pixels are all alike")
        order_N = np.argsort(labels_N, kind="stable")
        counts_C = np.bincount(labels_N, minlength=num_classes or 0)
        characters, turns = np.unique(np.flatnonzero(counts_C) // rotations, return_counts=True)
        if (turns != rotations).any():
            one = characters[turns != rotations][0] * rotations
            raise UserError(
                f"'{name}' lacks images of some of the classes {one} to {one + rotations - 1}, the turns of one class"
            )
        return cls(
            images_NX=jnp.asarray(images_NX[order_N]),
            labels_N=jnp.asarray(labels_N[order_N], jnp.int32),
            counts_C=jnp.asarray(counts_C, jnp.int32),
            present_P=jnp.asarray(np.flatnonzero(counts_C), jnp.int32),
            mean=jnp.float32(mean),
            std=jnp.float32(std),
            name=name,
            statistics=statistics,
            rotations=rotations,
        )

    @property
    def num_images(self) -> int:
        return self.images_NX.shape[0]

    @property
    def num_features(self) -> int:
        return self.images_NX.shape[1]

    @property
    def num_classes(self) -> int:
        return self.counts_C.shape[0]


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
    """Mean and standard deviation over all pixels of all images: one scalar each, as the paper standardises."""
    pixels = images_NX.reshape(-1)
    parts = (pixels[start : start + _AT_ONCE] for start in range(0, pixels.size, _AT_ONCE))  # bincount makes a copy
    histogram = sum(np.bincount(part, minlength=256) for part in parts)
    values = np.arange(256, dtype=np.float64)
    mean = float((histogram * values).sum() / histogram.sum())
    return mean, float(np.sqrt((histogram * (values - mean) ** 2).sum() / histogram.sum()))
