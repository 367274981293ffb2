"""Metrics for a dashboard, beside metrics.jsonl: TensorBoard's event files, or Weights & Biases."""

import importlib.util
from typing import Any, Protocol

from gpicl_jax.config import as_dict
from gpicl_jax.processes import is_writer
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
_ID = "wandb.json"


class Tracker(Protocol):
    """Is told of every record of `metrics.jsonl`, by the process that writes it."""

    def log(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def check_tracker(config: Config) -> None:
    """Raises `UserError` where the package that `log.to` needs is not installed."""
    package = _PACKAGES.get(config.log.to)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(f"log.to = '{config.log.to}' needs the package {package}; install it with: pip install {package}")


def make_tracker(config: Config, folder: RunFolder, step: int) -> Tracker | None:
    """What `log.to` names, or None. A run that goes on from `step` goes on there too, and nothing is logged twice."""
    if not config.log.to or not is_writer():
        return None
    return (TensorBoard if config.log.to == "tensorboard" else Wandb)(config, folder, step)


class TensorBoard:
    """Event files in the run's folder `tensorboard/`; what was logged after `step` is marked as void."""

    def __init__(self, config: Config, folder: RunFolder, step: int) -> None:
        del config
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, record: dict[str, Any]) -> None:
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of the project gpicl_jax with the run's settings; its files are in the run's folder `wandb/`.

    The run's id is kept in `wandb.json`; W&B itself passes over steps that it has already.
    """

    def __init__(self, config: Config, folder: RunFolder, step: int) -> None:
        import wandb

        known = folder.read_json(_ID) if step else None
        options = {"id": known["id"], "resume": "allow"} if known else {}
        self._run = wandb.init(
            project="gpicl_jax",
            name=folder.path.name,
            dir=str(folder.path),
            config=as_dict(config),
            settings=wandb.Settings(silent=True),
            **options,
        )
        folder.write_json(_ID, {"id": self._run.id})

    def log(self, record: dict[str, Any]) -> None:
        self._run.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        self._run.finish()


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name != "step" and value is not None}
