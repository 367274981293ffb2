"""`gpicl bench population`: many small members that differ in `Hyper`, trained by one program or one after another."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.bench.asked import Asked
from gpicl_jax.bench.measure import Compiled, Side, by_turns, compile_apart
from gpicl_jax.bench.program import make_chunk, random_images, random_tasks
from gpicl_jax.bench.rows import Row, number, timing_rows
from gpicl_jax.config import Hyper, hyper_from
from gpicl_jax.factory import make_learner, make_optimizer
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.training.state import TrainState, init_state

MEMBERS = 16


class _Population(NamedTuple):
    """The two ways to train the same members."""

    tasks: Any
    hyper_M: Hyper
    init: Any  # hyper -> state, for one member or all
    together: Compiled
    alone: Compiled


def measure(config: Config, asked: Asked) -> list[Row]:
    """Member-steps/s of both ways, and the largest difference of the members' losses after `train.steps` steps.

    Raises:
      UserError: PyTorch is asked for: there is no such thing there to compare with.
    """
    if asked.torch:
        raise UserError("gpicl bench population compares JAX with itself; leave out --pytorch and --pytorch-repo")
    population = _build(config)
    sides = _sides(population, config)
    timings = by_turns(sides, asked.repeats)
    table = f"{MEMBERS} members of width {config.model.width}, {config.model.num_layers} layers"
    rows = timing_rows(table, sides, timings, "member-steps/s", [sides[1].name])
    losses = _final_losses(population, config.train.steps // config.train.chunk)
    difference = np.abs(losses[0] - losses[1]).max()
    return [*rows, number(table, sides[0].name, f"largest |Δ loss| after {config.train.steps} steps", difference)]


def members(config: Config) -> Hyper:
    """Hyper [M]: seeds 0 … M − 1, learning rates from a third of the config's to three times it."""
    hyper = hyper_from(config)
    rates_M = hyper.learning_rate * np.geomspace(1 / 3, 3, MEMBERS, dtype=np.float32)
    hyper_M = jax.tree.map(lambda value: jnp.full(MEMBERS, value), hyper)
    return hyper_M._replace(learning_rate=jnp.asarray(rates_M), seed=hyper.seed + jnp.arange(MEMBERS))


def _build(config: Config) -> _Population:
    learner, tasks = make_learner(config), random_tasks(config, random_images(config))
    chunk, hyper_M = make_chunk(config, learner), members(config)
    init = jax.jit(lambda hyper: init_state(learner, make_optimizer(config), hyper))
    init_M = jax.jit(jax.vmap(init))
    together = compile_apart(jax.vmap(chunk, in_axes=(0, None, 0)), init_M(hyper_M), tasks, hyper_M, donate=(0,))
    first = _member(hyper_M, 0)
    alone = compile_apart(chunk, init(first), tasks, first, donate=(0,))
    return _Population(tasks, hyper_M, (init, init_M), together, alone)


def _member(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _hypers(population: _Population) -> list[Hyper]:
    return [_member(population.hyper_M, index) for index in range(MEMBERS)]


def _sides(population: _Population, config: Config) -> list[Side]:
    tasks, hypers, steps = population.tasks, _hypers(population), MEMBERS * config.train.chunk
    together: TrainState = population.init[1](population.hyper_M)
    states = [population.init[0](hyper) for hyper in hypers]

    def run_together() -> Any:
        nonlocal together
        together, metrics = population.together.run(together, tasks, population.hyper_M)
        return metrics["loss"]

    def run_alone() -> Any:
        losses = []
        for index, hyper in enumerate(hypers):
            states[index], metrics = population.alone.run(states[index], tasks, hyper)
            losses.append(metrics["loss"])
        return losses

    return [
        Side("one vmapped program", run_together, steps, population.together),
        Side("one after another", run_alone, steps, population.alone),
    ]


def _final_losses(population: _Population, chunks: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of every member's last chunk, [M]: trained together, and alone."""
    together, alone = population.init[1](population.hyper_M), []
    for _ in range(chunks):
        together, metrics_M = population.together.run(together, population.tasks, population.hyper_M)
    for hyper in _hypers(population):
        state = population.init[0](hyper)
        for _ in range(chunks):
            state, metrics = population.alone.run(state, population.tasks, hyper)
        alone.append(float(metrics["loss"]))
    return np.asarray(metrics_M["loss"]), np.array(alone)
