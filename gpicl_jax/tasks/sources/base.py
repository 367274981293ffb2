"""The base class of sources of examples, and the settings by which an episode draws from a source."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.registry import make
from gpicl_jax.sections import Config


class Drawing(NamedTuple):
    """The static settings by which episodes draw their examples.

    Attributes:
      length: L examples of an episode.
      classes_per_task: labels of a task. A task of a set with fewer classes has all of them.
      balanced: whether an episode shows every class of its task equally often. Else its images are drawn at random, none twice.
        The authors' stream has 0.3 pairs of equal images in 100 examples.
      num_context: examples before the queries. If balanced, both show every class equally often. 0: no queries.
    """

    length: int
    classes_per_task: int
    balanced: bool
    num_context: int = 0


class Examples(NamedTuple):
    """The examples of one episode before projection, and the numbers that standardise them.

    Attributes:
      pixels_LX: uint8 or float32 [L, X].
      labels_L: int32 [L], 0 … number of classes of the task − 1, before the task's permutation.
      mean, std: float32 scalars.
    """

    pixels_LX: jax.Array
    labels_L: jax.Array
    mean: jax.Array
    std: jax.Array

    @property
    def standardised_LX(self) -> jax.Array:
        """Inputs of mean 0 and deviation 1, float32 [L, X]."""
        return (self.pixels_LX.astype(jnp.float32) - self.mean) / self.std


class Source:
    """Where the examples of an episode come from: a frozen dataclass that is a pytree. It may register itself.

    Attributes:
      name: its name in records and tables.
      num_features: X.
      num_classes: C.
      statistics: the split whose mean and deviation standardise it, or '' where they are those of a law.
      has_splits: whether training and test have different examples.
    """

    room, needs, given = "source", ("draw",), ("num_features",)
    taken = tuple(field.name for field in dataclasses.fields(Config))  # a source's settings stand in a section of its name
    name = ""
    num_features: int
    num_classes: int
    statistics = ""
    has_splits = False

    @classmethod
    def open(cls, split: str, data: Any, settings: Any) -> "Source":
        """Returns the source for one split of a config's `[data]`. `settings` are the source's section."""
        del split
        return make("source", settings, num_features=data.num_features)

    def draw(self, task_key: jax.Array, key: jax.Array, drawing: Drawing) -> Examples:
        """Returns the examples of one episode. Traced.

        Args:
          task_key: key of what all episodes of a task share, e.g. its classes.
          key: key of this episode.
          drawing: settings of the episode.
        """
        raise NotImplementedError

    def check(self, drawing: Drawing) -> None:
        """Raises UserError where it cannot fill an episode."""

    def shown(self, task_keys_T: jax.Array, sequence_keys_TS: jax.Array, drawing: Drawing) -> np.ndarray | None:
        """Returns a number for each example that some episodes show, [T, S, L], the same for the same example.

        None, the default, says that all are new.
        """
        del task_keys_T, sequence_keys_TS, drawing

    def chooses_other_classes(self, test: "Source", classes_per_task: int) -> bool:
        """Returns whether a task of this training split has other classes on the test split, and so was never seen."""
        del test, classes_per_task
        return False

    def about(self) -> str:
        """Returns what meta-training sees of it, e.g. `1,200 training images`."""
        return "fresh examples"
