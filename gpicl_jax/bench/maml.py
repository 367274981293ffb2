"""`gpicl bench maml`: meta-steps of Finn's MAML, first and second order, with and without recomputed inner steps.

Where there are several devices, a third program spreads the problems over them by `pmap`; a CPU is cut into one
device a core for that.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from gpicl_jax.bench.asked import Asked
from gpicl_jax.bench.measure import Side, by_turns, compile_apart
from gpicl_jax.bench.program import draw_batch, flat_batch, random_images, random_tasks
from gpicl_jax.bench.rows import Row, timing_rows
from gpicl_jax.build import make_learner, make_optimizer
from gpicl_jax.hyper import hyper_from
from gpicl_jax.learners.base import Learner
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Episode
from gpicl_jax.training.parallel import compile_chunk, replicate
from gpicl_jax.training.step import BatchGradient, TrainChunk, TrainState, gradient_in_parts, init_state

_ORDERS = {"second order": False, "first order": True}
KEY = functools.partial(jax.random.key, 0)  # of every problem


def measure(config: Config, asked: Asked) -> list[Row]:
    """Meta-steps/s on one batch of problems, given: half of each is context, half queries.

    Raises:
      UserError: the learner is not `maml`, or PyTorch is asked for and not there.
    """
    if config.learner.name != "maml":
        raise UserError(f"gpicl bench maml measures learner.name = 'maml'; leave {config.learner.name!r} out")
    if asked.pytorch_repo is not None:
        raise UserError("the public project has no MAML; use --pytorch, our plain PyTorch version")
    if asked.pytorch and config.model.dtype != "float32":
        raise UserError("the PyTorch side's MAML is in float32; leave model.dtype as it is, or leave out --pytorch")
    episodes_B = problems(config)
    groups = {order: make_sides(order, config, episodes_B, asked) for order in _ORDERS}
    timings = by_turns([side for sides in groups.values() for side in sides], asked.repeats)
    rows = []
    for order, sides in groups.items():
        table = f"MAML, {order}: {len(episodes_B.y_L)} problems, {config.learner.inner_steps} inner steps"
        rows += timing_rows(
            table, sides, timings, "meta-steps/s", [f"pytorch, {order}"] if asked.pytorch else [], case=f", {order}"
        )
    return rows


def problems(config: Config) -> Episode:
    """A batch of episodes whose first half is context, unless `tasks.num_context` says how much."""
    tasks = random_tasks(config, random_images(config))
    episodes_B = flat_batch(jax.jit(draw_batch(config))(tasks, np.int32(0), hyper_from(config)))
    return episodes_B if tasks.num_context else episodes_B._replace(num_context=episodes_B.num_context // 2)


def inner_rows(config: Config) -> np.ndarray | None:
    """Rows of the context that each inner step of every problem sees, [K, batch]; None where it sees all."""
    return np.asarray(make_learner(config).batches(KEY())) if config.learner.inner_batch else None


def make_sides(order: str, config: Config, episodes_B: Episode, asked: Asked) -> list[Side]:
    """One device, one device with recomputed inner steps, all devices where there are several, PyTorch where asked for."""
    settings = dataclasses.replace(config.learner, first_order=_ORDERS[order])
    config = dataclasses.replace(config, learner=settings)
    kept, recomputed = (
        dataclasses.replace(config, learner=dataclasses.replace(config.learner, remat=remat)) for remat in (False, True)
    )
    sides = [_side(f"jax, {order}", kept, episodes_B), _side(f"jax, remat, {order}", recomputed, episodes_B)]
    if len(devices := shared_by(episodes_B)) > 1:
        sides.append(_spread_side(f"jax, {len(devices)} devices, {order}", kept, episodes_B, devices))
    return [*sides, _pytorch_side(f"pytorch, {order}", config, episodes_B)] if asked.pytorch else sides


def shared_by(episodes_B: Episode) -> list[jax.Device]:
    """As many devices as can take equal shares of the problems."""
    devices, problems = jax.local_devices(), len(episodes_B.y_L)
    return devices[: max(number for number in range(1, len(devices) + 1) if problems % number == 0)]


def _side(name: str, config: Config, episodes_B: Episode) -> Side:
    meta_step = _make_meta_step(config)(mean_gradient(make_learner(config), config.train.accumulate))
    state, hyper = _first_state(config), hyper_from(config)
    compiled = compile_apart(meta_step, state, episodes_B, hyper, donate=(0,))

    def run() -> Any:
        nonlocal state
        state, loss = compiled.run(state, episodes_B, hyper)
        return loss

    return Side(name, run, 1, compiled)


def _spread_side(name: str, config: Config, episodes_B: Episode, devices: list[jax.Device]) -> Side:
    gradient = mean_gradient(make_learner(config), math.gcd(config.train.accumulate, len(episodes_B.y_L) // len(devices)))
    meta_step = compile_chunk(gradient, _make_meta_step(config), parallel="pmap", devices=devices)
    state, given = replicate((_first_state(config), (episodes_B, hyper_from(config))), devices)

    def run() -> Any:
        nonlocal state
        state, loss = meta_step(state, *given)
        return loss

    return Side(name, run)


def _first_state(config: Config) -> TrainState:
    return jax.jit(lambda: init_state(make_learner(config), make_optimizer(config), hyper_from(config)))()


def _make_meta_step(config: Config) -> Callable[[BatchGradient], TrainChunk]:
    optimizer = make_optimizer(config)

    def from_gradient(gradient: BatchGradient) -> TrainChunk:
        def meta_step(state, episodes_B, hyper):
            gradients, loss = gradient(state.params, None, episodes_B, hyper)
            updates, opt_state = optimizer(hyper).update(gradients, state.opt_state, state.params)
            return state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state), loss

        return meta_step

    return from_gradient


def mean_gradient(learner: Learner, parts: int) -> BatchGradient:
    """`gradient(params, None, episodes_B, hyper)`: the gradient of the mean loss of the problems, and that loss.

    The problems are given in place of keys that they would be drawn from, and taken in `parts` equal parts, one after another.
    """

    def of_part(params: Any, _: None, episodes_b: Episode, __: Any) -> tuple[Any, jax.Array]:
        def mean_loss(params: Any) -> jax.Array:  # the key is of the order of inner batches; a cut these episodes bring along
            return jax.vmap(lambda episode: learner.loss(params, episode, key=KEY())[0])(episodes_b).mean()

        loss, gradient = jax.value_and_grad(mean_loss)(params)
        return gradient, loss

    return gradient_in_parts(of_part, parts)


def _pytorch_side(name: str, config: Config, episodes_B: Episode) -> Side:
    from gpicl_jax.bench.pytorch import device_of_torch, wait
    from gpicl_jax.bench.pytorch.maml import make_model, make_problems, meta_gradient
    from gpicl_jax.bench.pytorch.training import make_optimizer

    device = device_of_torch()
    model, given = make_model(config).to(device), make_problems(episodes_B, device, inner_rows(config))
    optimizer = make_optimizer(config, model)

    def run() -> None:
        optimizer.zero_grad()
        meta_gradient(model, given, config)
        optimizer.step()
        wait(device)

    return Side(name, run)
