"""Times of a meta-training step and of a prediction, and the number of steps that fit into a time."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gpicl_jax.build import make_tasks
from gpicl_jax.evaluation import drawn_in_parts, unseen_episode_keys
from gpicl_jax.learners.base import Learner
from gpicl_jax.sections import Config
from gpicl_jax.training.population import Population

_TIMINGS = 3  # of which the fastest counts
_TIMED_EPISODES = 64


def clock() -> float:
    """Returns processor seconds on a CPU, which other work changes less than wall-clock seconds, else the latter."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def fastest(run: Callable[[], Any]) -> float:
    """Returns seconds of the fastest of a few calls by `clock`, after one call that compiles."""
    times = []
    for _ in range(1 + _TIMINGS):
        begun = clock()
        jax.block_until_ready(run())
        times.append(clock() - begun)
    return min(times[1:])


def seconds_per_step(config: Config) -> float:
    """Returns the seconds of one meta-training step by `clock`, after compilation, or 0 where nothing is meta-trained."""
    population = Population([config])
    state = population.state()
    if not jax.tree.leaves(state.params):
        return 0.0

    def chunk() -> Any:
        nonlocal state
        state, metrics = population.chunk(state)
        return metrics

    return fastest(chunk) / config.train.chunk


def seconds_per_prediction(learner: Learner, params: Any, config: Config) -> float:
    """Returns the seconds to predict all rows of one episode by `clock`. With cuts these are the rows after the last cut."""
    tasks = make_tasks(config, "validation")
    episodes, keys = next(iter(drawn_in_parts(tasks, unseen_episode_keys(0, "validation", _TIMED_EPISODES, 1))))
    if cuts := learner.cuts(tasks.length):
        episodes = episodes._replace(num_context=np.full_like(episodes.num_context, cuts[-1]))
    predict = jax.jit(jax.vmap(jax.vmap(lambda episode, key: learner.predict(params, episode, key=key))))
    return fastest(lambda: predict(episodes, keys)) / _TIMED_EPISODES


def steps_within(seconds: float, per_step: float, chunk: int) -> int:
    """Returns how many steps fit into `seconds`, in whole chunks, at least one.

    Example:
      >>> steps_within(60, 0.25, 100), steps_within(1, 0.25, 100)
      (200, 100)
    """
    return max(1, int(seconds / per_step / chunk)) * chunk if per_step else chunk


def with_steps(config: Config, steps: int, validations: int = 1) -> Config:
    """Returns `config` with `steps` steps, at most as many validations, and a warm-up of at most a fifth of the steps.

    The last validation is at the end.
    """
    every = -(-steps // (validations * config.train.chunk)) * config.train.chunk
    train = dataclasses.replace(config.train, steps=steps, validate_every=every)
    optimizer = dataclasses.replace(config.optimizer, warmup_steps=min(config.optimizer.warmup_steps, steps // 5))
    return dataclasses.replace(config, train=train, optimizer=optimizer)
