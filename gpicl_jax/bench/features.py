"""`gpicl bench features`: what a training episode costs as inputs grow, for a learner of Gram matrices."""

from gpicl_jax.bench.asked import Asked
from gpicl_jax.bench.measure import Side, by_turns
from gpicl_jax.bench.program import random_images
from gpicl_jax.bench.rows import Row, timing_rows
from gpicl_jax.bench.step import step_side
from gpicl_jax.config import as_dict, config_from_dict
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError

_SIZES = ((8, 1), (14, 1), (28, 1), (32, 3))  # of images, and their channels


def measure(config: Config, asked: Asked) -> list[Row]:
    """Microseconds of a training episode at 64, 196, 784 and 3,072 features, its task included.

    Raises:
      UserError: PyTorch is asked for.
    """
    if asked.torch:
        raise UserError("bench features has no PyTorch side; leave --pytorch and --pytorch-repo out")
    sides = [_side(_with_images(config, *size)) for size in _SIZES]
    timings = by_turns(sides, asked.repeats)
    table = f"training episodes of {config.tasks.length}, {config.tasks.entries} (width {config.model.width})"
    return timing_rows(table, sides, timings, "µs/episode", [sides[0].name], per_unit=True)


def _with_images(config: Config, size: int, channels: int) -> Config:
    settings = as_dict(config)
    settings["data"] |= {"size": size, "channels": channels}
    return config_from_dict(settings)


def _side(config: Config) -> Side:
    side = step_side(f"{config.data.num_features:,} features", config, random_images(config))
    return side._replace(amount=config.train.chunk * config.tasks.tasks_per_step)
