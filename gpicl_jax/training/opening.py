"""Trained learners for use elsewhere: a run's folder or an exported file opens."""

import importlib.resources
import os
from pathlib import Path
from typing import Any, NamedTuple

from gpicl_jax.build import make_learner
from gpicl_jax.learners.base import Learner
from gpicl_jax.runs.export import opened
from gpicl_jax.sections import Config

DEFAULT = "default"


class OpenedRun(NamedTuple):
    """A trained learner.

    Attributes:
      learner: predicts episodes by `learner.predict(params, episode, key=key)`.
      params: its parameters.
      config: the settings of its meta-training.
    """

    learner: Learner
    params: Any
    config: Config


def open_run(path: str | os.PathLike[str], checkpoint: str = "latest") -> OpenedRun:
    """Opens a run's folder, a file of `gpicl export`, or `default`, the weights in the package.

    Args:
      path: folder, file or `default`.
      checkpoint: `latest` or `best` (on validation tasks), of a folder.

    Raises:
      UserError: nothing is there, or it cannot be used.

    Example:
      >>> run = open_run("default")
      >>> run.config.model.name, run.config.tasks.classes_per_task
      ('equivariant_transformer', 10)
    """
    packaged = importlib.resources.files("gpicl_jax") / "weights" / f"{DEFAULT}.npz"
    path = Path(str(packaged)) if path == DEFAULT else Path(path).expanduser()
    if path.is_dir():
        from gpicl_jax.training.export import run_params  # with Orbax, which an exported file does not need

        config, params, _ = run_params(path, checkpoint)
    else:
        params, config = opened(path)
    return OpenedRun(make_learner(config), params, config)
