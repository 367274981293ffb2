"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017, arXiv 1703.03400)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpicl_jax.learners.base import Params, score_rows
from gpicl_jax.learners.context_query import FromContext
from gpicl_jax.learners.instance import Instance
from gpicl_jax.models.base import RowModel
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError, setting
from gpicl_jax.tasks.episode import Episode

HEAD = "head"  # name of the last layer of every model
BATCH_NORM = "batch_norm"  # how the names of batch normalisations begin


@register("maml")
@dataclasses.dataclass(frozen=True)
class Maml(FromContext):
    """Finn's MAML: θ ← θ − α ∇_θ (mean cross-entropy of the context), K times from the meta-learned weights, then predictions.

    The meta-gradient of the queries' loss goes through all K steps (paper, equation 1 and algorithm 2). The context of a
    meta-training episode is at least one example and leaves at least 20 queries, unless all episodes have `num_context`.

    - Batches of the context are in an order that is shuffled anew in every pass over it. Examples that fill no batch are left
      out of that pass.
    - `first_order`: the inner gradient counts as a constant (the paper's section 5.2).
    - `learn_rates`: each array of weights has its own step size, α at first, meta-learned with the weights and the same at
      every step (cf. Antoniou et al. 2019, arXiv 1810.09502).
    - `head_only`: only the last layer adapts (ANIL, Raghu et al. 2020, arXiv 1909.09157).

    Attributes:
      model: one with batch statistics needs `num_context`. It sees the context in one pass and the queries in another.
      num_features: X.
      num_context: context of every episode, where it is fixed (few-shot problems), else 0.

    Example:
      >>> from gpicl_jax.models.mlp import MLP
      >>> learner = Maml(MLP(num_classes=10, width=16), 64, inner_rate=0.1)
      >>> episode = Episode(jnp.zeros((40, 64)), jnp.zeros(40, jnp.int32), jnp.int32(20))
      >>> learner.predict(learner.init(jax.random.key(0)), episode, key=jax.random.key(1)).shape
      (40, 10)
    """

    model: RowModel
    num_features: int
    num_context: int = 0
    inner_rate: float = setting(1e-3, "α, step size of the inner loop", above=0.0)
    inner_steps: int = setting(5, "K, gradient steps on the context; 0 is no adaptation", minimum=0)
    inner_batch: int = setting(0, "examples of each inner step; 0: the whole context", minimum=0)
    first_order: bool = setting(False, "leave out the derivative of the inner gradient")
    learn_rates: bool = setting(False, "meta-learn a step size for each array of weights")
    head_only: bool = setting(False, "adapt the last layer alone (ANIL)")
    remat: bool = setting(True, "recompute each inner step in the backward pass, to save memory", free=True)

    takes = RowModel
    fewest_context = 1
    fewest_queries = 20

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        batch, context = config.learner.inner_batch, config.tasks.num_context
        if batch and not context:
            raise UserError(f"learner.inner_batch = {batch} needs a context of one size; set tasks.num_context")
        if batch > context:
            raise UserError(f"learner.inner_batch = {batch}, but tasks.num_context = {context}; lower it")

    @property
    def transductive(self) -> bool:
        return self.model.transductive

    def init(self, key: jax.Array) -> Params:
        """Returns the weights, or with learned rates `weights` and `log_rates`, the logarithms of α′/α."""
        weights = Instance(self.model, self.num_features).init(key)
        if not self.learn_rates:
            return weights
        return {"weights": weights, "log_rates": jax.tree.map(lambda _: jnp.float32(0.0), self._adapted(weights))}

    def adapt(
        self, params: Params, episode: Episode, key: jax.Array, watch: Callable[..., Any] = lambda loss, weights: None
    ) -> tuple[Params, Any]:
        """Returns the weights after K steps on the context, and [K, …] of `watch(loss, weights after the step)`."""
        weights, rates = (params["weights"], params["log_rates"]) if self.learn_rates else (params, None)
        still = {name: each for name, each in weights.items() if not self._adapts(name)}

        def inner_step(adapted: Params, rows_b: jax.Array | None) -> tuple[Params, Any]:
            start = jax.lax.stop_gradient(adapted) if self.first_order else adapted
            loss, gradient = jax.value_and_grad(lambda each: self._context_loss(still | each, episode, rows_b))(start)
            if self.first_order:  # also of the weights that do not adapt
                gradient = jax.lax.stop_gradient(gradient)
            if rates is None:
                moved = jax.tree.map(lambda weight, slope: weight - self.inner_rate * slope, adapted, gradient)
            else:
                moved = jax.tree.map(
                    lambda weight, slope, rate: weight - self.inner_rate * jnp.exp(rate) * slope, adapted, gradient, rates
                )
            return moved, watch(loss, still | moved)

        step = jax.checkpoint(inner_step, prevent_cse=False) if self.remat else inner_step
        rows_Kb = self.batches(key) if self.inner_batch else None
        adapted, found_K = jax.lax.scan(step, self._adapted(weights), rows_Kb, length=self.inner_steps)
        return still | adapted, found_K

    def predict(self, params: Params, episode: Episode, *, key: jax.Array) -> jax.Array:
        return self._logits(self.adapt(params, episode, key)[0], episode)

    def state_size(self, length: int) -> int:
        """Returns the size of the context: inputs and labels."""
        return length * (self.num_features + 1)

    def descended(self, logits_LC: jax.Array) -> jax.Array:
        """Returns the logits whose cross-entropy the inner loop descends, here those of the model."""
        return logits_LC

    def batches(self, key: jax.Array) -> jax.Array:
        """Returns the rows of the context that each step sees, [K, batch]."""
        each = self.num_context // self.inner_batch
        passes = -(-self.inner_steps // each)
        orders_PN = jax.vmap(lambda key: jax.random.permutation(key, self.num_context))(jax.random.split(key, passes))
        rows_Kb = orders_PN[:, : each * self.inner_batch].reshape(passes * each, self.inner_batch)
        return rows_Kb[: self.inner_steps]

    def _adapts(self, name: str) -> bool:
        """Returns whether the inner loop moves the layer. As in Finn's code, it moves no offset of a batch normalisation."""
        return name == HEAD if self.head_only else not name.startswith(BATCH_NORM)

    def _adapted(self, weights: Params) -> Params:
        return {name: each for name, each in weights.items() if self._adapts(name)}

    def _logits(self, weights: Params, episode: Episode) -> jax.Array:
        """Returns the logits of all rows. A fixed context has zeros, since its rows are not scored."""
        logits = self.model.apply({"params": weights}, episode.x_LX[self.num_context :])
        return jnp.pad(logits, ((self.num_context, 0), (0, 0)))

    def _context_loss(self, weights: Params, episode: Episode, rows_b: jax.Array | None) -> jax.Array:
        rows = slice(0, self.num_context or None) if rows_b is None else rows_b
        x_LX, y_L = episode.x_LX[rows], episode.y_L[rows]
        loss_L, _ = score_rows(self.descended(self.model.apply({"params": weights}, x_LX)), y_L)
        if self.num_context:
            return loss_L.mean()
        is_context_L = (jnp.arange(len(y_L)) < episode.num_context).astype(jnp.float32)
        return (loss_L * is_context_L).sum() / jnp.maximum(is_context_L.sum(), 1.0)
