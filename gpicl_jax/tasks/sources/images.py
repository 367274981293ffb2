"""Stored images as a source: uint8 pixels on the device. An episode shows no image twice."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.data.datasets import read_split
from gpicl_jax.data.prepared import data_folder
from gpicl_jax.data.stored import check_labels
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.randomness import random_words
from gpicl_jax.tasks.sources.base import Drawing, Examples, Source
from gpicl_jax.tasks.sources.indices import draw_image_indices


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageDataset(Source):
    """Labelled images of one split, stored class by class.

    Attributes:
      images_NX: uint8 [N, X], one flattened image (row, column, channel) a row, sorted by label.
      labels_N: int32 [N], 0 … num_classes − 1.
      counts_C: int32 [C], images of each class. Images of class c begin at row `counts_C[:c].sum()`.
      present_P: int32 [P], the classes that have images in this split.
      mean: float32 scalar, mean over all pixels of the *training* split, in pixel units.
      std: float32 scalar, standard deviation likewise.
      statistics: the split of mean and std: `train`, or the only split of the set.
      rotations: quarter turns of an image that are different classes, one after another. A task shows one of them at most.

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

    has_splits = True

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
          UserError: images are not uint8 [N, X], labels are not N integers below `num_classes`, all pixels are alike, or a
            class lacks its other turns.
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

    def choose(self, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> tuple[jax.Array, jax.Array]:
        """Draws rows of the images that an episode shows, all different, and their labels within the task: int32 [L] each."""
        return draw_images(self, task_key, key, drawing)

    def draw(self, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> Examples:
        indices_L, labels_L = self.choose(task_key, key, drawing)
        return Examples(self.images_NX[indices_L], labels_L, self.mean, self.std)

    def shown(self, task_keys_T: jax.Array, sequence_keys_TS: jax.Array, drawing: Drawing) -> np.ndarray:
        indices = jax.vmap(lambda task_key, key: self.choose(task_key, key, drawing)[0], in_axes=(None, 0))
        return np.asarray(jax.jit(jax.vmap(indices))(task_keys_T, sequence_keys_TS))

    def chooses_other_classes(self, test: "ImageDataset", classes_per_task: int) -> bool:
        return test.num_classes > classes_per_task and self.present_P.tolist() != test.present_P.tolist()

    def about(self) -> str:
        return f"{self.num_images:,} training images"

    def check(self, drawing: Drawing) -> None:
        if isinstance(self.counts_C, jax.core.Tracer) or not isinstance(self.counts_C, jax.Array):
            return  # JAX rebuilds a TaskDistribution from placeholders too
        num_classes, counts_C = min(self.num_classes, drawing.classes_per_task), np.sort(np.asarray(self.counts_C))
        if num_classes < self.num_classes:
            counts_C = counts_C[counts_C > 0]
        self._check_classes(drawing, num_classes, int((counts_C > 0).sum()) // self.rotations)
        if drawing.balanced:
            self._check_balanced(drawing, num_classes, counts_C[0])
        fewest = int(counts_C[:num_classes].sum())
        if drawing.length > fewest:
            many = f"may give a task no more than {fewest} images of {num_classes} classes"
            if num_classes == self.num_classes:
                many = f"has {fewest} images"
            raise UserError(
                f"tasks.length = {drawing.length}, but '{self.name}' {many}, and an episode shows none twice; "
                "give more images, or train with a smaller tasks.length"
            )

    def _check_classes(self, drawing: Drawing, num_classes: int, present: int) -> None:
        chooses = num_classes < self.num_classes or self.rotations > 1  # else a class without images is passed over
        needed = drawing.classes_per_task if drawing.num_context else num_classes
        if present < needed and (chooses or drawing.num_context):
            turns = "" if self.rotations == 1 else ", each turn of which counts as the same one"
            raise UserError(
                f"'{self.name}' has images of {present} classes{turns}; "
                f"lower tasks.classes_per_task = {drawing.classes_per_task}"
            )

    def _check_balanced(self, drawing: Drawing, num_classes: int, fewest: int) -> None:
        for name, number in (("tasks.length", drawing.length), ("tasks.num_context", drawing.num_context)):
            if number % num_classes:
                raise UserError(
                    f"{name} = {number} is not a multiple of {num_classes} classes, as tasks.balanced = true needs; change it"
                )
        each = drawing.length // num_classes
        if fewest < each:
            raise UserError(
                f"'{self.name}' has a class of {fewest} images, but a balanced episode shows {each} different ones "
                "of every class; lower tasks.length, or set tasks.balanced = false"
            )


def load(
    name: str,
    split: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    data_dir: str | Path = "",
    standardize: bool = True,
) -> ImageDataset:
    """Loads one split of a base dataset, standardised by its training split.

    Args:
      name: `digits`, a TFDS set (`mnist`, `emnist/letters`, `mnist:3.0.1`), a name of `data.omniglot`, or a path, which begins
        with `.`, `/` or `~`: an .npz file (`images` or `features`, and `labels`) or a folder with one sub-folder for each
        class.
      split: `train`, `validation` or `test`, or another split of the set. If a set has fewer than these three,
        `data.stored.divide` makes them, with no image in two.
      size: height and width to resize to. None keeps the images as they are.
      channels: 1 (grey) or 3. None likewise.
      data_dir: folder of prepared TFDS sets, see `data.prepared.data_folder`. A missing set is downloaded and
        prepared in it, if TensorFlow is installed.
      standardize: false keeps pixels in the units of 0 … 1.

    Raises:
      UserError: an unknown set or split, damaged or unfit images or labels, more than the device's memory holds.

    Example:
      >>> load("digits", "test").images_NX.shape
      (397, 64)
    """
    folder = data_folder(str(data_dir))
    return ImageDataset.build(**read_split(name, split, folder, size=size, channels=channels, standardize=standardize))


def draw_images(dataset: ImageDataset, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> tuple[jax.Array, jax.Array]:
    """Draws rows of `dataset` that an episode shows, all different, and their labels within the task: int32 [L] each."""
    num_classes, length = min(dataset.num_classes, drawing.classes_per_task), drawing.length
    if num_classes == dataset.num_classes and not drawing.balanced:
        indices_L = draw_image_indices(key, dataset.num_images, length)
        return indices_L, dataset.labels_N[indices_L]
    classes_K = draw_classes(dataset, task_key, num_classes)
    counts_K = dataset.counts_C[classes_K]
    starts_K = (jnp.cumsum(dataset.counts_C) - dataset.counts_C)[classes_K]
    if not drawing.balanced:
        ends_K = jnp.cumsum(counts_K)
        places_L = draw_image_indices(key, ends_K[-1], length)
        labels_L = jnp.searchsorted(ends_K, places_L, side="right").astype(jnp.int32)
        return (starts_K + counts_K - ends_K)[labels_L] + places_L, labels_L
    each = length // num_classes
    order_key, *class_keys = jax.random.split(key, num_classes + 1)
    places_Ke = jax.vmap(lambda key, count: draw_image_indices(key, count, each))(jnp.stack(class_keys), counts_K)
    words_L = random_words(order_key, (length,))
    labels_L = jnp.repeat(jnp.arange(num_classes, dtype=jnp.int32), each)
    if drawing.num_context:  # the first of every class before the others
        is_query_L = np.tile(np.arange(each) >= drawing.num_context // num_classes, num_classes)
        words_L = (words_L >> 1) | jnp.where(is_query_L, np.uint32(2**31), np.uint32(0))
    order_L = jnp.argsort(words_L, stable=True)
    labels_L = labels_L[order_L]
    return (starts_K[:, None] + places_Ke).reshape(-1)[order_L], labels_L


def draw_classes(dataset: ImageDataset, task_key: jax.Array, num_classes: int) -> jax.Array:
    """Draws the classes of a task, int32 [K] in ascending order: all of the set's, or a uniform draw of those with images.

    If classes are turns of one character, a task has one of them at most: it draws characters, then a turn of each.
    """
    if num_classes == dataset.num_classes:
        return jnp.arange(num_classes)
    present_Cr = dataset.present_P.reshape(-1, dataset.rotations)
    words_C, words_K = jnp.split(random_words(task_key, (len(present_Cr) + num_classes,)), [len(present_Cr)])
    order_C = jnp.argsort(words_C, stable=True)
    return jnp.sort(present_Cr[order_C[:num_classes], words_K % dataset.rotations])
