"""One file per table or figure: `gpicl experiment NAME`."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpicl_jax.experiments.run import Experiment


def find(name: str) -> "Experiment":
    """The experiment of that name on the command line.

    Example:
      >>> find("scaling").about
      'model size × number of tasks, seen and unseen tasks'
    """
    return importlib.import_module(f"gpicl_jax.experiments.{name.replace('-', '_')}").EXPERIMENT
