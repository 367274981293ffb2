"""`gpicl bench population`: many small members that differ in `Hyper`, trained by one program or one after another.

Three ways: `training.population.Population` on all devices of this process, as the experiments do it (a CPU is cut into one
device a core); one vmapped program on one device; the same compiled step for one member after another on one device.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.bench.asked import Asked
from gpicl_jax.bench.measure import Compiled, Side, by_turns, compile_apart
from gpicl_jax.bench.program import make_chunk, random_images, random_tasks
from gpicl_jax.bench.rows import Row, number, timing_rows
from gpicl_jax.build import make_learner, make_optimizer
from gpicl_jax.hyper import Hyper
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.training.population import Population, hypers_of
from gpicl_jax.training.step import TrainState, init_state

MEMBERS = 16


class _Population(NamedTuple):
    """The three ways to train the same members."""

    tasks: Any
    hyper_M: Hyper
    init: Any  # hyper -> state, for one member or all
    together: Compiled
    alone: Compiled
    spread: Population


def measure(config: Config, asked: Asked) -> list[Row]:
    """Member-steps/s of each way, and how far its losses after `train.steps` steps lie from those of members trained alone.

    Raises:
      UserError: PyTorch is asked for: there is no such thing there to compare with.
    """
    if asked.torch:
        raise UserError("gpicl bench population compares JAX with itself; leave out --pytorch and --pytorch-repo")
    population = _build(config)
    sides = _sides(population, config)
    timings = by_turns(sides, asked.repeats)
    table = f"{MEMBERS} members of width {config.model.width}, {config.model.num_layers} layers"
    rows = timing_rows(table, sides, timings, "member-steps/s", [sides[-1].name])
    *others, alone = _final_losses(population, config.train.steps // config.train.chunk)
    quantity = f"largest |Δ loss| after {config.train.steps} steps"
    return rows + [
        number(table, side.name, quantity, np.abs(each - alone).max()) for side, each in zip(sides, others, strict=False)
    ]


def members(config: Config) -> list[Config]:
    """Seeds 0 … M − 1, learning rates from a third of the config's to three times it."""
    rates_M = config.optimizer.learning_rate * np.geomspace(1 / 3, 3, MEMBERS)
    return [
        dataclasses.replace(
            config,
            optimizer=dataclasses.replace(config.optimizer, learning_rate=float(rate)),
            train=dataclasses.replace(config.train, seed=config.train.seed + number),
        )
        for number, rate in enumerate(rates_M)
    ]


def _build(config: Config) -> _Population:
    learner, tasks = make_learner(config), random_tasks(config, random_images(config))
    chunk, hyper_M = make_chunk(config, learner), jax.tree.map(jnp.asarray, hypers_of(members(config)))
    init = jax.jit(lambda hyper: init_state(learner, make_optimizer(config), hyper))
    init_M = jax.jit(jax.vmap(init))
    together = compile_apart(jax.vmap(chunk, in_axes=(0, None, 0)), init_M(hyper_M), tasks, hyper_M, donate=(0,))
    first = _member(hyper_M, 0)
    alone = compile_apart(chunk, init(first), tasks, first, donate=(0,))
    return _Population(tasks, hyper_M, (init, init_M), together, alone, Population(members(config), tasks=tasks))


def _member(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _hypers(population: _Population) -> list[Hyper]:
    return [_member(population.hyper_M, index) for index in range(MEMBERS)]


def _sides(population: _Population, config: Config) -> list[Side]:
    tasks, hypers, steps = population.tasks, _hypers(population), MEMBERS * config.train.chunk
    together: TrainState = population.init[1](population.hyper_M)
    states, spread = [population.init[0](hyper) for hyper in hypers], population.spread.state()

    def run_spread() -> Any:
        nonlocal spread
        spread, metrics = population.spread.chunk(spread)
        return metrics["loss"]

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
        Side(f"population on {min(MEMBERS, jax.local_device_count())} devices", run_spread, steps),
        Side("one vmapped program", run_together, steps, population.together),
        Side("one after another", run_alone, steps, population.alone),
    ]


def _final_losses(population: _Population, chunks: int) -> list[np.ndarray]:
    """Mean loss of every member's last chunk, [M], each way."""
    spread, together, alone = population.spread.state(), population.init[1](population.hyper_M), []
    for _ in range(chunks):
        spread, spread_metrics = population.spread.chunk(spread)
        together, metrics_M = population.together.run(together, population.tasks, population.hyper_M)
    for hyper in _hypers(population):
        state = population.init[0](hyper)
        for _ in range(chunks):
            state, metrics = population.alone.run(state, population.tasks, hyper)
        alone.append(float(metrics["loss"]))
    return [population.spread.members(spread_metrics["loss"]), np.asarray(metrics_M["loss"]), np.array(alone)]
