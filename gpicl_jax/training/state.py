"""What changes while a learner trains."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpicl_jax.build import MakeOptimizer
from gpicl_jax.hyper import Hyper
from gpicl_jax.learners.base import Learner
from gpicl_jax.tasks.augmented import stream


class TrainState(NamedTuple):
    """Meta-parameters, the optimiser's state, and the number of steps taken. Keys are derived from seed and step."""

    params: Any
    opt_state: Any
    step: jax.Array


def init_state(learner: Learner, optimizer: MakeOptimizer, hyper: Hyper) -> TrainState:
    """The state before the first step."""
    params = learner.init(stream(hyper.seed, "init"))
    return TrainState(params, optimizer(hyper).init(params), jnp.int32(0))


def num_params(params: Any) -> int:
    """How many numbers `params` holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
