"""The traced settings of a run: arguments of the compiled program, in which the members of a population can differ."""

import collections
import dataclasses
import functools
from typing import Any

from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError

Hyper = Any  # a NamedTuple of the traced settings of a config, by name: learning_rate, num_tasks, seed, …


def hyper_from(config: Config) -> Hyper:
    """Returns the traced settings of `config` as NumPy scalars, whose strong types avoid recompilation.

    Example:
      >>> from gpicl_jax.config import load_config
      >>> hyper_from(load_config("digits", ("--train.seed=3",))).seed
      np.int32(3)
    """
    import numpy as np

    values = {}
    for section, field, value in _traced(config):
        if value == field.metadata.get("word"):
            value = field.metadata["maximum"]
        if field.name in values:
            raise UserError(f"{section}.{field.name} is traced, and so is another setting of this name; rename it")
        values[field.name] = np.float32(value) if field.type is float else np.int32(value)
    return _hyper_type(tuple(values))(**values)


def compiled_part(config: Config) -> Config:
    """Returns `config` without its traced numbers. Two configs with an equal result share a compiled program.

    Example:
      >>> from gpicl_jax.config import load_config
      >>> compiled_part(load_config("digits", ("--train.seed=3",))) == compiled_part(load_config("digits"))
      True
    """
    sections = config.sections
    for section, field, value in _traced(config):
        if value != field.metadata.get("word"):
            sections[section] = dataclasses.replace(sections[section], **{field.name: None})
    sources = tuple(sections.pop(source.name) for source in config.sources)
    return Config(**sections, sources=sources)


def _traced(config: Config) -> list[tuple[str, dataclasses.Field, Any]]:
    return [each for each in config.each_setting() if each[1].metadata.get("traced")]


@functools.cache
def _hyper_type(names: tuple[str, ...]) -> Any:
    return collections.namedtuple("Hyper", names)
