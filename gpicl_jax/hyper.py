"""The traced settings of a run: numbers that are arguments of the compiled program, so that a population can differ in them."""

import collections
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from gpicl_jax.sections import Config

Hyper = Any  # a NamedTuple of the traced settings of a config, by name: learning_rate, num_tasks, seed, …


def hyper_from(config: Config) -> Hyper:
    """Returns the traced settings of `config` as NumPy scalars: strong types, so nothing recompiles.

    Example:
      >>> from gpicl_jax.config import load_config
      >>> hyper_from(load_config("digits", ("--train.seed=3",))).seed
      np.int32(3)
    """
    import numpy as np

    values = {}
    for section, field in _traced(config):
        value = getattr(getattr(config, section), field.name)
        if value == field.metadata.get("word"):
            value = field.metadata["maximum"]
        values[field.name] = np.float32(value) if field.type is float else np.int32(value)
    return _hyper_type(tuple(values))(**values)


def compiled_part(config: Config) -> Config:
    """Returns `config` without the numbers that are traced: what two runs must share to share a program.

    Example:
      >>> from gpicl_jax.config import load_config
      >>> compiled_part(load_config("digits", ("--train.seed=3",))) == compiled_part(load_config("digits"))
      True
    """
    for section, field in _traced(config):
        old = getattr(config, section)
        if getattr(old, field.name) != field.metadata.get("word", None):
            config = dataclasses.replace(config, **{section: dataclasses.replace(old, **{field.name: None})})
    return config


def _traced(config: Config) -> Iterator[tuple[str, dataclasses.Field]]:
    for section in dataclasses.fields(config):
        for field in dataclasses.fields(getattr(config, section.name)):
            if field.metadata.get("traced"):
                yield section.name, field


@functools.cache
def _hyper_type(names: tuple[str, ...]) -> Any:
    return collections.namedtuple("Hyper", names)
