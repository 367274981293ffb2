"""The training loop of a population: what `loop` is to a run, for many members at once."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from gpicl_jax.runs.checkpoint import Checkpoints
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import MetricsLog, read_metrics
from gpicl_jax.training.population import Population
from gpicl_jax.training.signals import Interrupted, StopRequest
from gpicl_jax.training.state import TrainState

_SECONDS_BETWEEN_LINES = 20.0
_SECONDS_BETWEEN_SAVES = 30.0


@dataclass(frozen=True)
class TrainedPopulation:
    """What training leaves.

    Attributes:
      params_M: meta-parameters, NumPy arrays [M, …].
      diverged_M: the step by which a member's numbers were no longer finite, else None.
      records: those of `metrics.jsonl`; the values of a record are lists, one number for each member (None: not finite).
      seconds: of training, compilation and validations included, of all commands together.
    """

    params_M: Any
    diverged_M: list[int | None]
    records: list[dict[str, Any]]
    seconds: float


def train_population(
    population: Population,
    folder: RunFolder,
    validation_permute_prob: float,
    watch: Callable[[TrainState], dict[str, Any]] | None = None,
) -> TrainedPopulation:
    """Trains all members from the latest checkpoint in `folder`, or from the start, to `train.steps`.

    A member that diverges is noted, and the others go on. Validations come every `train.validate_every` steps, checkpoints
    with some of them and at the end.

    Args:
      population: what to train.
      folder: where; it must exist, and its lock must be held.
      validation_permute_prob: chance of the validation tasks to permute their labels.
      watch: what else to record before the first step and with each validation: lists, a value for each member.

    Raises:
      Interrupted: by a signal, after a checkpoint.
      UserError: the latest checkpoint cannot be read.
    """
    settings = population.config.train
    with StopRequest() as stop, Checkpoints(folder.checkpoints) as checkpoints:
        start = checkpoints.latest_step or 0
        state = population.state()
        if start:
            state = population.split(checkpoints.load(start, population.members_of(state)))
        course = _Course(population, folder, checkpoints, start, validation_permute_prob, watch)
        if not start:
            course.look(state)
        for step in range(start, settings.steps, settings.chunk):
            state = course.advance(state, step)
            course.between_chunks(state, stop.signum)
        course.report()
        if stop.signum is not None:
            raise Interrupted(stop.signum, settings.steps)
    records = read_metrics(folder.path)
    return TrainedPopulation(
        population.members(state.params), diverged_steps(records, population.size), records, course.seconds
    )


def diverged_steps(records: list[dict[str, Any]], size: int) -> list[int | None]:
    """For each member the first step whose record says that it was no longer finite.

    Example:
      >>> diverged_steps([{"step": 5, "loss": [1.0, None]}, {"step": 9, "loss": [None, None]}], 2)
      [9, 5]
    """
    steps: list[int | None] = [None] * size
    for record in records:
        for member, value in enumerate(record.get("loss", ())):
            if value is None and steps[member] is None:
                steps[member] = record["step"]
    return steps


class _Course:
    """The loop's bookkeeping: metrics one chunk late, validations, checkpoints."""

    def __init__(
        self,
        population: Population,
        folder: RunFolder,
        checkpoints: Checkpoints,
        start: int,
        permute: float,
        watch: Callable[[TrainState], dict[str, Any]] | None,
    ) -> None:
        self._population, self._checkpoints, self._watch = population, checkpoints, watch
        self._settings = population.config.train
        self._validate = population.validation(permute)
        self._log = MetricsLog(folder, step=start)
        self._step, self._start = start, start
        self._pending: dict[str, jax.Array] | None = None
        self._begun = time.monotonic() - self._log.seconds
        self._resumed = self._said = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def advance(self, state: TrainState, step: int) -> TrainState:
        """Dispatches the next chunk, then reports the one before it, which has been running meanwhile."""
        state, metrics = self._population.chunk(state)
        self.report()
        self._pending, self._step = metrics, step + self._settings.chunk
        return state

    def between_chunks(self, state: TrainState, signum: int | None) -> None:
        due = self._step == self._settings.steps or self._step % self._settings.validate_every == 0
        if due or signum is not None:
            self.report()
        if due:
            self.look(state)
            found = self._validate(state)
            record = {f"validation_{name}": _listed(values_M) for name, values_M in found.items()}
            self._log.append({"step": self._step, **record, "seconds": self.seconds})
        at_end = self._step == self._settings.steps
        if signum is not None or at_end or (due and time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES):
            self._saved = time.monotonic()
            self._checkpoints.save(self._step, self._population.members_of(state), None)
        if signum is not None:
            raise Interrupted(signum, self._step)

    def look(self, state: TrainState) -> None:
        """Records what `watch` sees."""
        if self._watch is not None:
            self._log.append({"step": self._step, **self._watch(state), "seconds": self.seconds})

    def report(self) -> None:
        if self._pending is None:
            return
        metrics, self._pending = self._population.members(self._pending), None
        loss_M = np.where(metrics["finite"], metrics["loss"], np.nan)
        others = {name: _listed(values) for name, values in metrics.items() if name.endswith("_loss")}
        self._log.append({"step": self._step, "loss": _listed(loss_M), **others, "seconds": self.seconds})
        if time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            rate = (self._step - self._start) / (self._said - self._resumed)
            left = (self._settings.steps - self._step) / rate
            finite = loss_M[np.isfinite(loss_M)]
            losses = f"loss {finite.min():.3f} to {finite.max():.3f}" if len(finite) else "all diverged"
            print(
                f"    step {self._step}/{self._settings.steps}  {losses}, "
                f"{self._population.size * rate:.1f} member-steps/s, {left:.0f} s left",
                flush=True,
            )


def _listed(values_M: np.ndarray) -> list[float | None]:
    """As JSON has it: no NaN, no infinity."""
    return [float(value) if math.isfinite(value) else None for value in values_M]
