"""Time of one predicted episode, alone and in a batch."""

import jax
import numpy as np

from gpicl_jax.bench.measure import Row, by_turns, compiled_side, row, timing_rows
from gpicl_jax.bench.program import SIZES, Asked, Program
from gpicl_jax.sections import Config

TAKES = (*SIZES, "model", "learner", "--pytorch")


def measure(config: Config, asked: Asked) -> list[Row]:
    """Measures microseconds per episode in batches of 1 and `tasks.tasks_per_step`. Row i is predicted from the rows before it.

    Raises:
      UserError: PyTorch's version does not support a setting of `config`.
    """
    if asked.pytorch:
        from gpicl_jax.bench.pytorch.transformer import check, prediction_side

        check(config)
    program, key, groups = Program(config), jax.random.key(0), {}
    params = jax.jit(program.learner.init)(key)

    def predict(params, episodes_B):
        return jax.vmap(lambda episode: program.learner.predict(params, episode, key=key))(episodes_B)

    for size in (1, config.tasks.tasks_per_step):
        episodes_B = program.changed(tasks={"tasks_per_step": size, "sequences_per_task": 1}).first_batch()
        groups[size] = {"jax": compiled_side(predict, params, episodes_B, amount=size)}
        if asked.pytorch:
            groups[size]["pytorch"] = prediction_side(config, params, episodes_B)
    by_turns(asked.repeats, *groups.values())
    rows = []
    for size, sides in groups.items():
        table = f"prediction of an episode of {config.tasks.length}, batch of {size}"
        rows += timing_rows(table, sides, "µs/episode")
        if asked.pytorch:
            difference = np.abs(np.asarray(sides["jax"].run()) - sides["pytorch"].run()).max()
            rows.append(row(table, "jax", "largest |Δ logit|", difference))
    return rows
