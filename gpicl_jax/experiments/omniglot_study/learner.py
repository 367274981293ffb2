"""MAML as the study runs it: its mistake, its meta-loss of one query, and gradients of one length."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpicl_jax.learners.base import Metrics, Params, scored_loss
from gpicl_jax.learners.maml import Maml
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError, setting
from gpicl_jax.tasks.episode import Episode


@register("study_maml")
@dataclasses.dataclass(frozen=True)
class StudyMaml(Maml):
    """Finn's MAML, with the study's deviations and what may help it.

    - `squash`: losses are those of logits (0, σ(z)) in place of (0, z), z = logit 1 − logit 0. Predictions are from z, since of
      (0, σ(z)) class 1 is always the larger.
    - `unit_gradients`: the meta-gradient of each episode has norm 1 before the mean over episodes.

    Example:
      >>> from gpicl_jax.models.mlp import MLP
      >>> learner = StudyMaml(MLP(num_classes=2, width=16), 64, num_context=30, squash=True)
      >>> learner.descended(jnp.array([[0.0, 100.0]])).tolist()
      [[0.0, 1.0]]
    """

    num_queries: int = setting(0, "number of first queries in the meta-loss; 0: all", minimum=0)
    squash: bool = setting(False, "squash the logit of the losses to 0 … 1 first, as the study does by mistake")
    unit_gradients: bool = setting(False, "scale each episode's meta-gradient to norm 1")

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        learner, tasks, context = config.learner, config.tasks, config.tasks.num_context
        if not context and (learner.num_queries or learner.squash):
            raise UserError("learner.num_queries or squash needs a context of one size; set tasks.num_context")
        if learner.num_queries > tasks.length - context:
            raise UserError(
                f"learner.num_queries = {learner.num_queries}, but an episode has {tasks.length - context} queries; lower it"
            )
        if learner.squash and tasks.classes_per_task != 2:
            raise UserError(
                f"learner.squash = true is for two classes; set tasks.classes_per_task = 2, not {tasks.classes_per_task}"
            )

    def loss(self, params: Params, episode: Episode, *, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """Returns loss and metrics. With a fixed context the metrics include `queries_loss`, the mean over all queries."""
        if not self.unit_gradients:
            return self._loss(params, episode, key)
        fixed = jax.lax.stop_gradient(params)
        (loss, metrics), slope = jax.value_and_grad(self._loss, has_aux=True)(fixed, episode, key)
        norm = jnp.maximum(optax.tree.norm(slope), 1e-12)
        unit = jax.tree.map(lambda leaf: leaf / norm, slope)
        zero = optax.tree.vdot(unit, optax.tree.sub(params, fixed))  # its gradient is `unit`
        return loss + zero, metrics

    def inner_losses(self, params: Params, episode: Episode, key: jax.Array) -> dict[str, jax.Array]:
        """Returns, [K] each, the `inner_loss` that a step descends, and the `inner_validation_loss` of all queries after it."""

        def watch(loss: jax.Array, weights: Params) -> dict[str, jax.Array]:
            of_queries = self._queries_loss(self._logits(weights, episode), episode)
            return {"inner_loss": loss, "inner_validation_loss": of_queries}

        return self.adapt(params, episode, key, watch)[1]

    def descended(self, logits_LC: jax.Array) -> jax.Array:
        """Returns logits. Squashed, cross-entropy is log(1 + 1/e) = 0.313 to 1.313 for class 1, and above log 2 for class 0."""
        if not self.squash:
            return logits_LC
        z_L = logits_LC[:, 1] - logits_LC[:, 0]
        return jnp.stack([jnp.zeros_like(z_L), jax.nn.sigmoid(z_L)], axis=1)

    def _loss(self, params: Params, episode: Episode, key: jax.Array) -> tuple[jax.Array, Metrics]:
        if not self.num_context:
            return super().loss(params, episode, key=key)
        logits_LC = self.predict(params, episode, key=key)
        _, metrics = scored_loss(logits_LC, episode.y_L, self.scored_rows(episode))
        loss, of_all = (self._queries_loss(logits_LC, episode, number) for number in (self.num_queries, 0))
        return loss, metrics | {"queries_loss": of_all}

    def _queries_loss(self, logits_LC: jax.Array, episode: Episode, number: int = 0) -> jax.Array:
        """Returns the mean loss of the first `number` queries, or of all where it is 0."""
        length = len(episode.y_L)
        counted_L = self.scored_rows(episode) & (jnp.arange(length) < self.num_context + (number or length))
        return scored_loss(self.descended(logits_LC), episode.y_L, counted_L)[0]
