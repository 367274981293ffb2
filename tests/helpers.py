"""Small things that several tests need."""

import json
import tomllib
from pathlib import Path

from gpicl_jax.config import load_config
from gpicl_jax.sections import Config

TINY = str(Path(__file__).with_name("tiny.toml"))
TINY_SETTINGS = tuple(  # the same, for experiments that train a Transformer
    f"--{section}.{key}={json.dumps(value)}"
    for section, entries in tomllib.loads(Path(TINY).read_text()).items()
    if section != "base"
    for key, value in entries.items()
)


def tiny_config(*overrides: str) -> Config:
    """The config `digits_transformer` at a size where a step takes a millisecond."""
    return load_config(TINY, overrides)
