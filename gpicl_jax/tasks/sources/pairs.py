"""Problems of two characters of one alphabet, as a public study of MAML on Omniglot sets them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.data.omniglot import PAIRS, pairs
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.randomness import random_words
from gpicl_jax.tasks.sources.base import Drawing, Examples, Source
from gpicl_jax.tasks.sources.images import ImageDataset, load
from gpicl_jax.tasks.sources.indices import draw_image_indices


@register(PAIRS)
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs(Source):
    """A source whose tasks are pairs of classes, each pair as likely as another.

    The label of an example is 1 where its class is that of the episode's first example, else 0. The study shuffles the 40
    drawings of two characters: its first 30 are then for training, 6 for validation and 4 for the test.

    Attributes:
      images: the classes.
      pairs_P2: int32 [P, 2], classes.

    Example:
      >>> images_NX, labels = np.arange(12, dtype=np.uint8).reshape(6, 2), [0, 0, 1, 1, 2, 2]
      >>> images = ImageDataset.build(images_NX, labels, mean=0, std=1, name="mine")
      >>> source = Pairs(images, jnp.array([[0, 2]]))
      >>> source.draw(jax.random.key(0), jax.random.key(1), Drawing(4, 2, False, 2)).labels_L[0].item()
      1
    """

    images: ImageDataset
    pairs_P2: jax.Array

    num_classes = 2
    has_splits = True

    @property
    def name(self) -> str:
        return self.images.name

    @property
    def num_features(self) -> int:
        return self.images.num_features

    @property
    def statistics(self) -> str:
        return self.images.statistics

    @classmethod
    def open(cls, split: str, data: Any, settings: Any) -> "Pairs":
        del settings
        images = load(PAIRS, split, size=data.size, channels=data.channels, data_dir=data.dir, standardize=data.standardize)
        return cls(images, jnp.asarray(pairs(split, data.dir)))

    def draw(self, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> Examples:
        indices_L, labels_L = draw_pair_images(self, task_key, key, drawing)
        return Examples(self.images.images_NX[indices_L], labels_L, self.images.mean, self.images.std)

    def check(self, drawing: Drawing) -> None:
        if drawing.classes_per_task != 2:
            raise UserError(
                f"'{PAIRS}' makes tasks of two classes; set tasks.classes_per_task = 2, not {drawing.classes_per_task}"
            )
        if drawing.balanced:
            raise UserError(f"'{PAIRS}' shuffles the drawings of both characters; set tasks.balanced = false")
        if isinstance(self.pairs_P2, jax.core.Tracer) or not isinstance(self.pairs_P2, jax.Array):
            return
        fewest = int(self.images.counts_C[self.pairs_P2].sum(axis=1).min())
        if drawing.length > fewest:
            raise UserError(
                f"tasks.length = {drawing.length}, but two characters of '{PAIRS}' have {fewest} drawings; an episode shows "
                "none twice; lower tasks.length"
            )

    def count(self, task_keys_T: jax.Array, sequence_keys_TS: jax.Array, drawing: Drawing) -> int:
        indices = jax.vmap(lambda task_key, key: draw_pair_images(self, task_key, key, drawing)[0], in_axes=(None, 0))
        return len(np.unique(jax.jit(jax.vmap(indices))(task_keys_T, sequence_keys_TS)))

    def chooses_other_classes(self, test: "Pairs", classes_per_task: int) -> bool:
        return True

    def about(self) -> str:
        return self.images.about()


def draw_pair(source: Pairs, task_key: jax.Array) -> jax.Array:
    """The two classes of a task, int32 [2]."""
    return source.pairs_P2[random_words(task_key, ()) % len(source.pairs_P2)]


def draw_pair_images(source: Pairs, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> tuple[jax.Array, jax.Array]:
    """Rows of `source.images` that an episode shows, all different, and their labels: int32 [L] each."""
    images, pair_2 = source.images, draw_pair(source, task_key)
    counts_2 = images.counts_C[pair_2]
    starts_2 = (jnp.cumsum(images.counts_C) - images.counts_C)[pair_2]
    places_L = draw_image_indices(key, counts_2.sum(), drawing.length)
    second_L = (places_L >= counts_2[0]).astype(jnp.int32)
    indices_L = starts_2[second_L] + places_L - second_L * counts_2[0]
    return indices_L, (second_L == second_L[0]).astype(jnp.int32)
