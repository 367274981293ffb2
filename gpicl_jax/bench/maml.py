"""Meta-steps per second of Finn's MAML, first and second order, with and without recomputed inner steps.

With several devices, a third program spreads the problems over them by `pmap`. A CPU is cut into one device a core for it.
"""

import functools
import math

import jax

from gpicl_jax.bench.measure import Row, Side, by_turns, timing_rows, training_side
from gpicl_jax.bench.program import SIZES, Asked, Program
from gpicl_jax.learners.maml import Maml
from gpicl_jax.registry import find
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Episode
from gpicl_jax.training.parallel import compile_chunk, replicate

TAKES = (*SIZES, "model", "learner", "optimizer", "--pytorch")
ONE_DEVICE_A_CORE = True
_ORDERS = {"second order": False, "first order": True}


def measure(config: Config, asked: Asked) -> list[Row]:
    """Measures meta-steps/s on one given batch of problems. Half of a problem is context, half queries.

    Raises:
      UserError: the learner is not MAML, or PyTorch's version does not support a setting of `config`.
    """
    if not issubclass(find("learner", config.learner.name), Maml):
        raise UserError(f"gpicl bench maml measures learner.name = 'maml'; leave {config.learner.name!r} out")
    if asked.pytorch and getattr(config.model, "dtype", "float32") != "float32":
        raise UserError("the PyTorch side's MAML is in float32; leave model.dtype as it is, or leave out --pytorch")
    program = Program(config)
    episodes_B = problems(program)
    groups = {order: make_sides(order, program, episodes_B, asked) for order in _ORDERS}
    by_turns(asked.repeats, *groups.values())
    rows = []
    for order, sides in groups.items():
        table = f"MAML, {order}: {len(episodes_B.y_L)} problems, {config.learner.inner_steps} inner steps"
        rows += timing_rows(table, sides, "meta-steps/s")
    return rows


def problems(program: Program) -> Episode:
    """Returns a batch of episodes with `tasks.num_context` examples of context, or half of the examples where that is 0."""
    episodes_B = program.first_batch()
    return episodes_B if program.tasks.num_context else episodes_B._replace(num_context=episodes_B.num_context // 2)


def make_sides(order: str, program: Program, episodes_B: Episode, asked: Asked) -> dict[str, Side]:
    """Returns one device, one with recomputed inner steps, all devices (if several), and PyTorch (if it is to be timed)."""
    kept, recomputed = (program.changed(learner={"first_order": _ORDERS[order], "remat": each}) for each in (False, True))
    devices = jax.local_devices()
    sides = {"jax": _side(kept, episodes_B, devices[:1]), "jax, remat": _side(recomputed, episodes_B, devices[:1])}
    shares = max(number for number in range(1, len(devices) + 1) if len(episodes_B.y_L) % number == 0)
    if shares > 1:
        sides[f"jax, {shares} devices"] = _side(kept, episodes_B, devices[:shares])
    if asked.pytorch:
        from gpicl_jax.bench.pytorch.maml import maml_side

        sides["pytorch"] = maml_side(kept, episodes_B)
    return sides


def _side(program: Program, episodes_B: Episode, devices: list[jax.Device]) -> Side:
    """Returns a side that takes meta-steps on given problems. Every device takes an equal share of them."""
    state, shares = program.init(program.hyper), len(devices)
    gradient = program.given_gradient(math.gcd(program.config.train.accumulate, len(episodes_B.y_L) // shares))
    if shares == 1:
        step = functools.partial(program.given_step, gradient=gradient)
        return training_side(step, state, episodes_B, program.hyper)
    step = compile_chunk(program.given_step, gradient, parallel="pmap", devices=devices)
    return training_side(step, *replicate((state, episodes_B, program.hyper), devices), compiled=True)
