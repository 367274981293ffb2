"""Training steps per second of many small members that differ in `Hyper`, as one program or one after another.

Three ways are compared: `training.population.Population` on all devices of this process, as in experiments (a CPU is cut into
one device a core), one vmapped program on one device, and one compiled step for one member after another on one device.
"""

import jax
import numpy as np

from gpicl_jax.bench.measure import Row, Side, by_turns, compile_apart, row, timing_rows, training_side
from gpicl_jax.bench.program import SIZES, Asked, Program, changed, model_size
from gpicl_jax.hyper import hyper_from
from gpicl_jax.sections import Config
from gpicl_jax.training.population import Population, hypers_of

TAKES = (*SIZES, "model", "optimizer", "train.chunk", "train.steps")
ONE_DEVICE_A_CORE = True
MEMBERS = 16
_ALONE = "one after another"


def measure(config: Config, asked: Asked) -> list[Row]:
    """Measures member-steps/s of each way, and how far losses after `train.steps` steps are from those of members alone."""
    sides, table = _sides(config), f"{MEMBERS} members of {model_size(config)}"
    for _ in range(config.train.steps // config.train.chunk):
        losses_M = {name: np.ravel(side.run())[:MEMBERS] for name, side in sides.items()}
    by_turns(asked.repeats, sides)
    rows = timing_rows(table, sides, "member-steps/s", {_ALONE: sides[_ALONE]})
    alone_M, quantity = losses_M.pop(_ALONE), f"largest |Δ loss| after {config.train.steps} steps"
    return rows + [row(table, name, quantity, np.abs(each_M - alone_M).max()) for name, each_M in losses_M.items()]


def _sides(config: Config) -> dict[str, Side]:
    """Returns the three ways, before their first step.

    Members have seeds 0 … M − 1, and learning rates from 1/3 of the config's to 3 times it.
    """
    program, steps = Program(config), MEMBERS * config.train.chunk
    rates_M = config.optimizer.learning_rate * np.geomspace(1 / 3, 3, MEMBERS)
    members = [
        changed(config, optimizer={"learning_rate": float(rate)}, train={"seed": config.train.seed + number})
        for number, rate in enumerate(rates_M)
    ]
    population = Population(members, tasks=program.tasks)
    hypers, hyper_M = jax.device_put([*map(hyper_from, members)]), jax.device_put(hypers_of(members))
    together, state_M = jax.vmap(program.chunk, in_axes=(0, None, 0)), jax.jit(jax.vmap(program.init))(hyper_M)
    alone, costs = compile_apart(program.chunk, program.init(hypers[0]), program.tasks, hypers[0], donate=(0,))
    each = [training_side(alone, program.init(hyper), program.tasks, hyper, compiled=True) for hyper in hypers]
    spread = f"population on {min(MEMBERS, jax.local_device_count())} devices"
    return {
        spread: training_side(population.chunk, population.state(), amount=steps, compiled=True),
        "one vmapped program": training_side(together, state_M, program.tasks, hyper_M, amount=steps),
        _ALONE: Side(lambda: [side.run() for side in each], steps, costs),
    }
