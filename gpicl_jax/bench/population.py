"""Many small members that differ in `Hyper`, trained by one program or one after another.

Three ways: `training.population.Population` on all devices of this process, as the experiments do it (a CPU is cut into one
device a core); one vmapped program on one device; the same compiled step for one member after another on one device.
"""

import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.bench.measure import Row, Side, by_turns, compile_apart, row, timing_rows, training_side
from gpicl_jax.bench.program import SIZES, Asked, Program, changed, model_size
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.training.population import Population, hypers_of

TAKES = (*SIZES, "model", "optimizer", "train.chunk", "train.steps")
ONE_DEVICE_A_CORE = True
MEMBERS = 16


def measure(config: Config, asked: Asked) -> list[Row]:
    """Measures member-steps/s of each way, and how far its losses after `train.steps` steps lie from those of members alone.

    Raises:
      UserError: PyTorch is asked for: there is no such thing there to compare with.
    """
    if asked.torch:
        raise UserError("gpicl bench population compares JAX with itself; leave out --pytorch and --pytorch-repo")
    make_sides = _compiled(config)
    sides, last = make_sides(), "one after another"
    by_turns(asked.repeats, sides)
    table = f"{MEMBERS} members of {model_size(config)}"
    rows = timing_rows(table, sides, "member-steps/s", {last: sides[last]})
    sides, quantity = make_sides(), f"largest |Δ loss| after {config.train.steps} steps"
    for _ in range(config.train.steps // config.train.chunk):
        losses_M = {name: np.ravel(side.run())[:MEMBERS] for name, side in sides.items()}
    alone_M = losses_M.pop(last)
    return rows + [row(table, name, quantity, np.abs(each_M - alone_M).max()) for name, each_M in losses_M.items()]


def _compiled(config: Config) -> Callable[[], dict[str, Side]]:
    """Compiles the three ways; returns a function that makes a side of each, before its first step.

    Members have seeds 0 … M − 1, and learning rates from a third of the config's to three times it.
    """
    program = Program(config)
    rates_M = config.optimizer.learning_rate * np.geomspace(1 / 3, 3, MEMBERS)
    members = [
        changed(config, optimizer={"learning_rate": float(rate)}, train={"seed": config.train.seed + number})
        for number, rate in enumerate(rates_M)
    ]
    population, hyper_M = Population(members, tasks=program.tasks), jax.tree.map(jnp.asarray, hypers_of(members))
    hypers = [jax.tree.map(operator.itemgetter(index), hyper_M) for index in range(MEMBERS)]
    given_M, given, init_M = (program.tasks, hyper_M), (program.tasks, hypers[0]), jax.jit(jax.vmap(program.init))
    together = compile_apart(jax.vmap(program.chunk, in_axes=(0, None, 0)), init_M(hyper_M), *given_M, donate=(0,))
    alone = compile_apart(program.chunk, program.init(hypers[0]), *given, donate=(0,))
    spread, steps = f"population on {min(MEMBERS, jax.local_device_count())} devices", MEMBERS * config.train.chunk

    def make_sides() -> dict[str, Side]:
        each = [training_side(alone, program.init(hyper), program.tasks, hyper) for hyper in hypers]
        return {
            spread: training_side(population.chunk, population.state(), amount=steps),
            "one vmapped program": training_side(together, init_M(hyper_M), *given_M, amount=steps),
            "one after another": Side(lambda: [side.run() for side in each], steps, alone),
        }

    return make_sides
