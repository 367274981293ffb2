"""Metrics for a dashboard, beside metrics.jsonl: TensorBoard's event files, or Weights & Biases."""

import importlib.util
from typing import Any

from gpicl_jax.config import as_dict
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
_ID = "wandb.json"


def check_tracker(config: Config) -> None:
    """Raises `UserError` where the package that `log.to` needs is not installed."""
    package = _PACKAGES.get(config.log.to)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(f"log.to = '{config.log.to}' needs the package {package}; install it with: pip install {package}")


def make_tracker(config: Config, folder: RunFolder, step: int) -> Any:
    """Returns the tracker that `log.to` names, with W&B's methods `log(numbers, step)` and `finish()`, or None.

    A run that resumes at `step` resumes in the tracker too, and nothing is logged twice.
    """
    if not config.log.to or not folder.writes:
        return None
    return _TensorBoard(folder, step) if config.log.to == "tensorboard" else _wandb_run(config, folder, step)


class _TensorBoard:
    """Event files in the run's folder `tensorboard/`. Events after `step` are marked as void."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, numbers: dict[str, Any], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()


def _wandb_run(config: Config, folder: RunFolder, step: int) -> Any:
    """Returns a run of the W&B project gpicl_jax with the run's settings. Its files are in the run's folder `wandb/`.

    `wandb.json` keeps its id. W&B skips steps that it has already.
    """
    import wandb

    known = folder.read_json(_ID) if step else None
    run = wandb.init(
        project="gpicl_jax",
        name=folder.path.name,
        dir=str(folder.path),
        config=as_dict(config),
        settings=wandb.Settings(silent=True),
        **({"id": known["id"], "resume": "allow"} if known else {}),
    )
    folder.write_json(_ID, {"id": run.id})
    return run
