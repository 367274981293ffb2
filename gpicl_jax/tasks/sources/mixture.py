"""Several sources at once. A task uses one of them, by chance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.settings import UserError
from gpicl_jax.tasks.randomness import random_words
from gpicl_jax.tasks.sources.base import Drawing, Examples, Source

_COIN = 2**31  # far from the counters that a source draws from the same key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture(Source):
    """Base datasets by weight. The key of a task decides which one it uses.

    Attributes:
      sources: sources of one number of features X.
      weights: chance of each, in any unit. Empty means equal chances.

    Raises:
      UserError: the sources have different numbers of features, or another number of weights than sources.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...] = dataclasses.field(default=(), metadata={"static": True})

    def __post_init__(self) -> None:
        features = {source.name: source.num_features for source in self.sources if hasattr(source, "num_features")}
        if len(set(features.values())) > 1:
            each = ", ".join(f"'{name}' {number}" for name, number in features.items())
            raise UserError(f"base datasets of different numbers of features cannot be mixed: {each}; resize them to one size")
        if self.weights and len(self.weights) != len(self.sources):
            raise UserError(f"{len(self.weights)} weights for {len(self.sources)} sources; give one for each, or none")

    @property
    def name(self) -> str:
        return "+".join(source.name for source in self.sources)

    @property
    def num_features(self) -> int:
        return self.sources[0].num_features

    @property
    def num_classes(self) -> int:
        return max(source.num_classes for source in self.sources)

    @property
    def statistics(self) -> str:
        return " and ".join(dict.fromkeys(source.statistics for source in self.sources if source.statistics))

    @property
    def has_splits(self) -> bool:
        return any(source.has_splits for source in self.sources)

    def draw(self, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> Examples:
        # Every source is asked: a branch per task would be the same under vmap, and images are cheap to draw. Each has the
        # task's own key, so that a task alone and in a mixture are the same.
        drawn = [source.draw(task_key, key, drawing) for source in self.sources]
        drawn = [each._replace(pixels_LX=each.pixels_LX.astype(jnp.float32)) for each in drawn]
        number = draw_source(self, task_key)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[number], *drawn)

    def check(self, drawing: Drawing) -> None:
        for source in self.sources:
            source.check(drawing)

    def shown(self, task_keys_T: jax.Array, sequence_keys_TS: jax.Array, drawing: Drawing) -> np.ndarray:
        numbers = []
        for number, source in enumerate(self.sources):
            shown_TSL = source.shown(task_keys_T, sequence_keys_TS, drawing)
            if shown_TSL is None:
                shape = (*sequence_keys_TS.shape, drawing.length)
                shown_TSL = np.arange(np.prod(shape)).reshape(shape)
            numbers.append(len(self.sources) * shown_TSL + number)
        number_T = np.asarray(jax.vmap(lambda key: draw_source(self, key))(task_keys_T))
        return np.stack(numbers)[number_T, np.arange(len(number_T))]

    def chooses_other_classes(self, test: "Mixture", classes_per_task: int) -> bool:
        both = zip(self.sources, test.sources, strict=True)
        return any(source.chooses_other_classes(other, classes_per_task) for source, other in both)

    def about(self) -> str:
        return ", ".join(f"{source.name} ({source.about()})" for source in self.sources)


def draw_source(mixture: Mixture, task_key: jax.Array) -> jax.Array:
    """Returns the number of the source that a task uses, int32 scalar."""
    weights_M = np.array(mixture.weights or [1.0] * len(mixture.sources))
    bounds_M = np.minimum(np.cumsum(weights_M / weights_M.sum())[:-1] * 2**32, 2**32 - 1).astype(np.uint32)
    coin = random_words(jax.random.fold_in(task_key, _COIN), ())
    return (coin >= jnp.asarray(bounds_M)).sum(dtype=jnp.int32)
