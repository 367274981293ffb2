"""One episode: the sequence of examples that a learner sees of one task."""

from typing import NamedTuple

import jax


class Episode(NamedTuple):
    """Examples of one task, in order. Under `vmap` every field has leading axes, `B` for a batch.

    The prediction of row i < num_context may depend on examples < i and x_i. That of a row i ≥ num_context (a query) may depend
    on examples < num_context and x_i. With num_context = L every row is predicted from the rows before it (prequential, as in
    the paper).

    Attributes:
      x_LX: float32 [L, X], projected and standardised inputs. Of `gram` tasks [L, min(L, X)], inputs up to a rotation.
      y_L: int32 [L], labels 0 … C − 1 after the task's permutation.
      num_context: int32 scalar, traced.
    """

    x_LX: jax.Array
    y_L: jax.Array
    num_context: jax.Array


class EpisodeKeys(NamedTuple):
    """The keys of S episodes of each of T tasks: tasks [T], images and learner [T, S]."""

    task_T: jax.Array
    sequence_TS: jax.Array
    learner_TS: jax.Array
