"""A set of labelled images as it sits on the device: uint8 pixels, integer labels, two numbers that standardise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Labelled images of one split.

    Attributes:
      images_NX: uint8 [N, X], one flattened image a row.
      labels_N: int32 [N], 0 … num_classes − 1.
      mean: float32 scalar, mean over all pixels of the *training* split, in pixel units.
      std: float32 scalar, standard deviation likewise.
      name: for records and tables, e.g. `digits`.
      num_classes: number of classes C.

    Example:
      >>> digits = ImageDataset.build(np.zeros((5, 64), np.uint8), np.arange(5), mean=1.0, std=2.0, name="mine")
      >>> digits.num_images, digits.num_features, digits.num_classes
      (5, 64, 5)
    """

    images_NX: jax.Array
    labels_N: jax.Array
    mean: jax.Array
    std: jax.Array
    name: str = dataclasses.field(metadata={"static": True})
    num_classes: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def build(cls, images_NX, labels_N, *, mean: float, std: float, name: str, num_classes: int | None = None):
        """Checks the arrays and moves them to the device, once.

        Raises:
          ValueError: images are not uint8 [N, X], labels not N integers, or all pixels are alike.
        """
        images_NX, labels_N = np.asarray(images_NX), np.asarray(labels_N)
        if images_NX.dtype != np.uint8 or images_NX.ndim != 2:
            raise ValueError(f"images of '{name}' are {images_NX.dtype} {images_NX.shape}; expected uint8 of shape [N, X]")
        if labels_N.shape != images_NX.shape[:1] or labels_N.dtype.kind not in "iu":
            raise ValueError(f"labels of '{name}' are {labels_N.dtype} {labels_N.shape}; expected {len(images_NX)} integers")
        if not std > 0:
            raise ValueError(f"standard deviation of '{name}' is {std}; expected a positive number: its pixels are all alike")
        return cls(
            images_NX=jnp.asarray(images_NX),
            labels_N=jnp.asarray(labels_N, jnp.int32),
            mean=jnp.float32(mean),
            std=jnp.float32(std),
            name=name,
            num_classes=int(labels_N.max()) + 1 if num_classes is None else num_classes,
        )

    @property
    def num_images(self) -> int:
        return self.images_NX.shape[0]

    @property
    def num_features(self) -> int:
        return self.images_NX.shape[1]


def pixel_statistics(images_NX: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation over all pixels of all images: one scalar each, as the paper standardises."""
    return float(images_NX.mean(dtype=np.float64)), float(images_NX.std(dtype=np.float64))
