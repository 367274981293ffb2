"""Time of a training episode at 64 to 3,072 features, for a learner of Gram matrices."""

from gpicl_jax.bench.measure import Row, by_turns, timing_rows
from gpicl_jax.bench.program import SIZES, Asked, Program, changed
from gpicl_jax.bench.step import step_side
from gpicl_jax.sections import Config

TAKES = (*SIZES[2:], "model", "optimizer", "train.chunk", "train.accumulate")
_SIZES = ((8, 1), (14, 1), (28, 1), (32, 3))  # of images, and their channels


def measure(config: Config, asked: Asked) -> list[Row]:
    """Measures microseconds of a training episode, its task included, at 64, 196, 784 and 3,072 features."""
    sides = {}
    for size, channels in _SIZES:
        program = Program(changed(config, data={"size": size, "channels": channels}))
        sides[f"{program.config.data.num_features:,} features"] = side = step_side(program)
        side.amount *= config.tasks.tasks_per_step
    by_turns(asked.repeats, sides)
    table = f"training episodes of {config.tasks.length}, {config.tasks.entries} (width {config.model.width})"
    return timing_rows(table, sides, "µs/episode", dict([*sides.items()][:1]))
