"""What a run compiles, before it is spread over devices."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from gpicl_jax.build import MakeOptimizer, make_learner, make_optimizer
from gpicl_jax.hyper import Hyper
from gpicl_jax.learners.base import Learner
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.training import step
from gpicl_jax.training.parallel import gradient_in_parts
from gpicl_jax.training.step import BatchGradient, Metrics, TrainState


class TrainingProgram(NamedTuple):
    """The pure functions of a run.

    Attributes:
      learner, optimizer: what `build` makes of the config.
      init: the state before the first step, from `hyper`.
      gradient: the gradient of a batch, in `train.accumulate` parts.
      chunk: `step.train_chunk` of (state, tasks, hyper), which also takes a `gradient`.
    """

    learner: Learner
    optimizer: MakeOptimizer
    init: Callable[[Hyper], TrainState]
    gradient: BatchGradient
    chunk: Callable[..., tuple[TrainState, Metrics]]


def make_program(config: Config) -> TrainingProgram:
    """Returns the functions that `config` describes. Nothing is compiled."""
    learner, optimizer = make_learner(config), make_optimizer(config)
    return TrainingProgram(
        learner,
        optimizer,
        init=functools.partial(step.init_state, learner, optimizer, curriculum=config.tasks.curriculum),
        gradient=gradient_in_parts(functools.partial(step.batch_gradient, learner=learner), config.train.accumulate),
        chunk=functools.partial(step.train_chunk, config=config, optimizer=optimizer),
    )


def check_shares(config: Config, num_devices: int) -> int:
    """Returns into how many equal slices `num_devices` and `train.accumulate` cut a batch.

    Raises:
      UserError: they cannot.
    """
    slices = num_devices * config.train.accumulate
    if config.tasks.tasks_per_step % slices:
        parts = f" × train.accumulate = {config.train.accumulate}" if config.train.accumulate > 1 else ""
        raise UserError(
            f"tasks.tasks_per_step = {config.tasks.tasks_per_step} is not divisible by the {num_devices} devices{parts}; "
            f"give a multiple of {slices}"
        )
    return slices
