"""Checkpoints by Orbax v1, saved in the background. The latest one and the best one on validation tasks are kept."""

import contextlib
import logging
import operator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from gpicl_jax.settings import UserError, one_line

_METRIC = "validation_loss"


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of a run. Used as a context manager, it loses no save in the background."""

    def __init__(self, path: Path) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        policies = ocp.training.preservation_policies
        loss = operator.itemgetter(_METRIC)
        best = policies.BestN(n=1, get_metric_fn=loss, reverse=True, keep_checkpoints_without_metrics=False)
        kept = policies.AnyPreservationPolicy([policies.LatestN(n=1), best])
        self._path, self._checkpointer = path, ocp.training.Checkpointer(path, preservation_policy=kept)

    def __exit__(self, *exc: object) -> None:
        self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best_step(self) -> int | None:
        """The step with the lowest validation loss, or the latest step where no checkpoint was validated."""
        try:
            validated = [each for each in self._checkpointer.checkpoints if each.metrics]
        except ValueError as error:
            raise UserError(f"metrics of a checkpoint in {self._path} are damaged ({error}); use the latest one") from None
        if not validated:
            return self.latest_step
        return min(validated, key=lambda each: each.metrics[_METRIC]).step

    def save(self, step: int, state: Any, validation_loss: float | None) -> None:
        """Saves in the background. Orbax has copied `state` when this returns, so the next step may reuse its memory."""
        if self.latest_step != step:
            metrics = None if validation_loss is None else {_METRIC: validation_loss}
            self._checkpointer.save_async(step, state, metrics=metrics, force=True)

    def load(self, step: int, like: Any) -> Any:
        """Returns the state saved at `step`, in the structure and shapes of `like`, and on its devices.

        Args:
          step: step of an existing checkpoint.
          like: arrays, or shapes as from `jax.eval_shape` for the first device.

        Raises:
          UserError: the checkpoint is damaged or of another structure.
        """
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or first), like)
        try:
            return self._checkpointer.load(step, like)
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"checkpoint {step} in {self._path} cannot be read ({one_line(error)}); it is damaged or of another config"
            ) from None
