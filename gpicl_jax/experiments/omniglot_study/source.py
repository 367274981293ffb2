"""Problems of two characters of one alphabet, as in the study."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gpicl_jax.experiments.omniglot_study.dataset import PAIRS, pairs
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.randomness import random_words
from gpicl_jax.tasks.sources.base import Drawing
from gpicl_jax.tasks.sources.images import ImageDataset, load
from gpicl_jax.tasks.sources.indices import draw_image_indices


@register(PAIRS)
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(ImageDataset):
    """Images whose tasks are pairs of classes, all pairs equally likely.

    The label of an example is 1 where its class is that of the episode's first example, else 0. The study shuffles the 40
    drawings of two characters. The first 30 are for training, the next 6 for validation and the last 4 for the test.

    Attributes:
      pairs_P2: int32 [P, 2], classes.

    Example:
      >>> pixels_NX, labels = jnp.arange(12, dtype=jnp.uint8).reshape(6, 2), [0, 0, 1, 1, 2, 2]
      >>> images = ImageDataset.build(pixels_NX, labels, mean=0, std=1, name="mine")
      >>> source = Pairs(**vars(images), pairs_P2=jnp.array([[0, 2]]))
      >>> source.draw(jax.random.key(0), jax.random.key(1), Drawing(4, 2, False, 2)).labels_L[0].item()
      1
    """

    pairs_P2: jax.Array

    num_classes = 2

    @classmethod
    def open(cls, split: str, data: Any, settings: Any) -> "Pairs":
        del settings
        images = load(PAIRS, split, size=data.size, channels=data.channels, data_dir=data.dir, standardize=data.standardize)
        return cls(**vars(images), pairs_P2=jnp.asarray(pairs(split, data.dir)))

    def choose(self, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> tuple[jax.Array, jax.Array]:
        pair_2 = self.pairs_P2[random_words(task_key, ()) % len(self.pairs_P2)]
        counts_2 = self.counts_C[pair_2]
        starts_2 = (jnp.cumsum(self.counts_C) - self.counts_C)[pair_2]
        places_L = draw_image_indices(key, counts_2.sum(), drawing.length)
        second_L = (places_L >= counts_2[0]).astype(jnp.int32)
        indices_L = starts_2[second_L] + places_L - second_L * counts_2[0]
        return indices_L, (second_L == second_L[0]).astype(jnp.int32)

    def check(self, drawing: Drawing) -> None:
        if drawing.classes_per_task != 2:
            raise UserError(
                f"'{PAIRS}' makes tasks of two classes; set tasks.classes_per_task = 2, not {drawing.classes_per_task}"
            )
        if drawing.balanced:
            raise UserError(f"'{PAIRS}' shuffles the drawings of both characters; set tasks.balanced = false")
        if isinstance(self.pairs_P2, jax.core.Tracer) or not isinstance(self.pairs_P2, jax.Array):
            return
        fewest = int(self.counts_C[self.pairs_P2].sum(axis=1).min())
        if drawing.length > fewest:
            raise UserError(
                f"tasks.length = {drawing.length}, but two characters of '{PAIRS}' have {fewest} drawings; an episode shows "
                "none twice; lower tasks.length"
            )

    def chooses_other_classes(self, test: "Pairs", classes_per_task: int) -> bool:
        return True
