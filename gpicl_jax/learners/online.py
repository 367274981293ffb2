"""Online learners: a network predicts an example, then takes a gradient step on it, along the whole episode."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpicl_jax.learners.base import Metrics, OnePass, Params, scored_loss
from gpicl_jax.models.base import RowModel
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError, setting
from gpicl_jax.tasks.episode import Episode

_EPS_ROOT = 1e-8  # ours; without it no gradient flows through the root (the authors' inner Adam has 0)
OPTIMIZERS = {
    "sgd": optax.sgd,
    "adam": functools.partial(optax.adam, eps_root=_EPS_ROOT),
    "adamw": functools.partial(optax.adamw, eps_root=_EPS_ROOT),
}


@dataclasses.dataclass(frozen=True)
class Online(OnePass):
    """The base class: ŷ_i = f(θ_i, x_i), then θ_{i+1} = θ_i − step(∇ l(f(θ_i, x_i), y_i)). Subclasses differ in θ_0.

    The mechanism is that of the authors' code (google/learned_optimization, folder research/data_driven, commit 32186aa).
    Its derivative through Adam needs eps_root > 0, because the root's derivative at 0 is infinite.
    """

    inner_optimizer: str = setting("adam", "optimiser of the steps along an episode", choices=tuple(OPTIMIZERS))
    inner_rate: float = setting(1e-3, "step size of inner_optimizer", above=0.0)
    remat: bool = setting(True, "recompute each step in the backward pass, to save memory", free=True)

    takes = RowModel

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return OPTIMIZERS[self.inner_optimizer](self.inner_rate)

    def inputs(self, episode: Episode) -> tuple[jax.Array, ...]:
        return (episode.x_LX,)

    def start(self, params: Params, key: jax.Array) -> Params:
        """Returns θ_0 of an episode."""
        return params

    def predict(self, params: Params, episode: Episode, *, key: jax.Array) -> jax.Array:
        weights, optimizer = self.start(params, key), self.optimizer

        def example_loss(weights: Params, x_X: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits_C = self.model.apply({"params": weights}, x_X[None])[0]
            return optax.softmax_cross_entropy_with_integer_labels(logits_C, y), logits_C

        def predict_then_learn(carry, example):
            x_X, y, is_context = example
            weights, opt_state = carry
            gradient, logits_C = jax.grad(example_loss, has_aux=True)(weights, x_X, y)
            updates, opt_state = optimizer.update(gradient, opt_state, weights)
            learned = optax.apply_updates(weights, updates), opt_state
            return jax.tree.map(lambda new, old: jnp.where(is_context, new, old), learned, carry), logits_C

        step = jax.checkpoint(predict_then_learn, prevent_cse=False) if self.remat else predict_then_learn
        is_context_L = jnp.arange(len(episode.y_L)) < episode.num_context
        carry = weights, optimizer.init(weights)
        return jax.lax.scan(step, carry, (episode.x_LX, episode.y_L, is_context_L))[1]

    def state_size(self, length: int) -> int:
        """Returns the size of the weights and of the optimiser's state."""
        weights = jax.eval_shape(super().init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves((weights, jax.eval_shape(self.optimizer.init, weights))))


@register("sgd")
@dataclasses.dataclass(frozen=True)
class SGD(Online):
    """The paper's SGD, an online learner whose θ_0 is drawn anew for every episode, or is 0. Nothing is meta-learned.

    Weights of 0 are the best start of a linear network: A x has the same law under every rotation, and labels are permuted, so
    that no direction and no label is likelier than another.

    Example:
      >>> from gpicl_jax.models.mlp import MLP
      >>> learner = SGD(MLP(num_classes=10, num_layers=0), 64)
      >>> episode = Episode(jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32), jnp.int32(20))
      >>> learner.init(jax.random.key(0)), learner.predict({}, episode, key=jax.random.key(1)).shape
      ({}, (20, 10))
    """

    zeros: bool = setting(False, "start from weights of 0; for model.num_layers = 0")

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        if config.learner.zeros and config.model.num_layers:
            raise UserError(
                f"learner.zeros = true is for model.num_layers = 0, not {config.model.num_layers}: no gradient passes a hidden "
                "layer of zeros"
            )

    def init(self, key: jax.Array) -> Params:
        return {}

    def start(self, params: Params, key: jax.Array) -> Params:
        weights = super().init(key)
        return jax.tree.map(jnp.zeros_like, weights) if self.zeros else weights


@register("finetune")
@dataclasses.dataclass(frozen=True)
class Finetune(Online):
    """An online learner whose θ_0 is trained over many tasks as an `Instance` learner, without the online pass."""

    def loss(self, params: Params, episode: Episode, *, key: jax.Array) -> tuple[jax.Array, Metrics]:
        return scored_loss(OnePass.predict(self, params, episode, key=key), episode.y_L, self.scored_rows(episode))


@register("maml_online")
@dataclasses.dataclass(frozen=True)
class MamlOnline(Online):
    """The paper's MAML, an online learner whose θ_0 is trained through the whole online pass by `jax.grad`."""
