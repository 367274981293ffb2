"""One episode: the sequence of examples that a learner sees of one task."""

from typing import NamedTuple

import jax


class Episode(NamedTuple):
    """Examples of one task, in order; under `vmap` every field has leading axes, `B` for a batch.

    Row i < num_context may be predicted from examples < i and x_i; a row i ≥ num_context (a query) from
    examples < num_context and x_i. With num_context = L every row is predicted from those before it
    (prequential, as in the paper).

    Attributes:
      x_LX: float32 [L, X], projected and standardised inputs; of tasks in Gram space [L, min(L, X)], inputs up to a rotation.
      y_L: int32 [L], labels 0 … C − 1 after the task's permutation.
      num_context: int32 scalar, traced.
    """

    x_LX: jax.Array
    y_L: jax.Array
    num_context: jax.Array


class EpisodeKeys(NamedTuple):
    """The keys that S episodes of each of T tasks are made from: tasks [T], images and learner [T, S]."""

    task_T: jax.Array
    sequence_TS: jax.Array
    learner_TS: jax.Array
