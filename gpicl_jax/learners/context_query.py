"""Learners that split an episode into a context, to learn from, and queries, to predict."""

import dataclasses

import jax
import jax.numpy as jnp

from gpicl_jax.learners.base import FIRST_POSITIONS, Learner, Metrics, OnePass, Params, final_rows
from gpicl_jax.models.base import ContextModel
from gpicl_jax.registry import register
from gpicl_jax.tasks.episode import Episode


class FromContext(Learner):
    """The base class: meta-training draws one cut per episode, where the context ends, and scores the queries after it.

    An episode that already has a context (num_context < L, a few-shot problem) keeps it.

    Attributes:
      fewest_context: smallest context of meta-training.
      fewest_queries: smallest number of queries of meta-training, in episodes that have so many examples.
      num_context: context of every episode, where it is fixed (few-shot problems), else 0.
    """

    queries = True
    fewest_context = 0
    fewest_queries = 1
    num_context = 0

    def scored_rows(self, episode: Episode) -> jax.Array:
        return jnp.arange(len(episode.y_L)) >= episode.num_context

    def loss(self, params: Params, episode: Episode, *, key: jax.Array) -> tuple[jax.Array, Metrics]:
        if self.num_context:
            return super().loss(params, episode, key=key)
        cut_key, predict_key = jax.random.split(key)
        length = len(episode.y_L)
        largest = max(self.fewest_context, length - self.fewest_queries)
        cut = jax.random.randint(cut_key, (), self.fewest_context, min(largest, length - 1) + 1)
        whole = episode.num_context == length
        return super().loss(params, episode._replace(num_context=jnp.where(whole, cut, episode.num_context)), key=predict_key)

    def cuts(self, length: int) -> tuple[int, ...]:
        """Returns a few small cuts and those of the last tenth, or none where the context is fixed."""
        if self.num_context:
            return ()
        positions = range(length)
        return tuple(sorted({*(cut for cut in FIRST_POSITIONS if cut < length), *positions[final_rows(length)]}))


@register("context_query")
@dataclasses.dataclass(frozen=True)
class ContextQuery(FromContext, OnePass):
    """A learner of a context/query model, with the loss −log p(y_q | x_q, context) (Müller et al. 2022, arXiv 2112.10510).

    Example:
      >>> from gpicl_jax.models.transformer import ContextQueryTransformer
      >>> learner = ContextQuery(ContextQueryTransformer(num_classes=10, width=16, num_layers=1), 64, 20)
      >>> params = learner.init(jax.random.key(0))
      >>> episode = Episode(jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32), jnp.int32(15))
      >>> learner.predict(params, episode, key=jax.random.key(1)).shape, int(learner.scored_rows(episode).sum())
      ((20, 10), 5)
    """

    num_context: int = 0

    takes = ContextModel

    def inputs(self, episode: Episode) -> tuple[jax.Array, ...]:
        return episode.x_LX, episode.y_L, episode.num_context
