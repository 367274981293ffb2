"""The training loop. It does all input and output. Between two chunks it logs, validates, saves and handles signals."""

import math
import time
from collections import deque
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from gpicl_jax.processes import agreement, of_first
from gpicl_jax.runs.checkpoint import Checkpoints
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import MetricsLog
from gpicl_jax.runs.tracker import make_tracker
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.training.divergence import Diverged, advice
from gpicl_jax.training.profile import Profile
from gpicl_jax.training.progress import Progress
from gpicl_jax.training.signals import Interrupted, StopRequest
from gpicl_jax.training.step import Metrics, TrainState

_SECONDS_BETWEEN_SAVES = 30.0  # of a population, which keeps no best checkpoint


class Trainee(Protocol):
    """What the loop trains: a run (`Trainer`), or M members at once (`Population`), whose records hold lists of M.

    `state` is the state before the first step. `chunk` takes `train.chunk` steps without waiting for them, and reuses the
    memory of the state. `record` waits for a chunk. Its `loss` is None where a run diverged. `validate` returns a record and,
    for a run, the loss that chooses the best checkpoint, NaN where it is not finite. A checkpoint holds what `saved` makes of
    the arrays of a state, of which `restored` makes the arrays again.
    """

    config: Config

    def state(self) -> TrainState: ...
    def chunk(self, state: TrainState) -> tuple[TrainState, Metrics]: ...
    def record(self, metrics: Metrics) -> dict[str, Any]: ...
    def validate(self, state: TrainState) -> tuple[dict[str, Any], float | None]: ...
    def saved(self, arrays: Any) -> Any:
        return arrays

    def restored(self, saved: Any) -> Any:
        return saved


class Trained(NamedTuple):
    """The result of training: last state, seconds of earlier commands, and whether `train.patience` ended it."""

    state: TrainState
    seconds_before: float
    stopped_early: bool


def train(
    trainee: Trainee,
    folder: RunFolder,
    command: dict[str, Any] | None = None,
    profiled: range = range(0),
) -> Trained:
    """Trains from the latest checkpoint in `folder`, or from the start, to `train.steps`.

    A run that diverges ends. A member of a population that diverges is recorded as None, and the others continue.

    Args:
      folder: an existing folder whose lock is held.
      command: a run's record for `run.json`. It and `config.toml` are written once the run can continue.
      profiled: steps to trace into `profile/`.

    Raises:
      Interrupted: a signal came. A checkpoint is saved.
      Diverged: a run's loss, parameter or prediction became NaN or infinite. The last good checkpoint stays.
      UserError: the latest checkpoint is beyond `train.steps` or the steps to trace, or cannot be read.
    """
    settings = trainee.config.train
    with StopRequest() as stop, Checkpoints(folder.checkpoints) as checkpoints:  # a second signal loses no save
        state, start, steps = _begin(trainee, folder, checkpoints, command, profiled)
        report = _Report(trainee, folder, checkpoints, start)
        profile = Profile(profiled if folder.writes else range(0), folder.path / "profile")
        with closing(report), closing(profile):
            if start < steps:
                report.say("compiling …")
            step, saved = start, time.monotonic()
            for begin in range(start, steps, settings.chunk):
                if report.stalled:
                    break
                step = begin + settings.chunk
                profile.before(range(begin, step), state)
                stop.ask()
                dispatched = time.monotonic()
                state, metrics = trainee.chunk(state)
                report.tell_later(step, metrics, dispatched)  # tells of the chunk before, which has been running meanwhile
                profile.after(range(begin, step), state)
                due, signum = step == steps or step % settings.validate_every == 0, stop.answer()
                if due or signum is not None:
                    report.tell()  # nothing that is not finite may be saved
                    loss = report.validated(step, state) if due else None
                    long_ago = time.monotonic() - saved > _SECONDS_BETWEEN_SAVES
                    if loss is not None or signum is not None or step == steps or long_ago:
                        checkpoints.save(step, trainee.saved(state.stored), loss)
                        saved = time.monotonic()
                    report.rests(step)
                if signum is not None:
                    raise Interrupted(signum, step)
            stop.ask()
            if (signum := stop.answer()) is not None:  # it came after the last chunk began, whose state is saved
                raise Interrupted(signum, step)
    return Trained(state, report.log.seconds, report.stalled)


def _begin(
    trainee: Trainee, folder: RunFolder, checkpoints: Checkpoints, command: dict[str, Any] | None, profiled: range
) -> tuple[TrainState, int, int]:
    """Returns the first state, its step, and the last step. All processes fail together or continue together."""
    state = trainee.state()
    steps = trainee.config.train.steps if jax.tree.leaves(state.params) else 0  # nothing to meta-learn
    with agreement():
        start = round(of_first(checkpoints.latest_step or 0))  # a shared folder may be listed late elsewhere
        if start > steps:
            raise UserError(f"{folder.path} is already at step {start}, past train.steps = {steps}; raise train.steps")
        if profiled and start >= profiled.stop:
            raise UserError(f"{folder.path} is already at step {start}, past --profile-steps; give later ones")
        if start:
            state = TrainState(**trainee.restored(checkpoints.load(start, trainee.saved(state.stored))))
    if command is not None:
        folder.write_config(trainee.config)  # a resumed run may have more steps than it began with
        commands = (folder.read_json("run.json") or {"commands": []})["commands"]
        folder.write_json("run.json", {"commands": [*commands, command]})
    return state, start, steps


class _Report:
    """The records in `metrics.jsonl` and the printed lines. `stalled` says whether `train.patience` is over."""

    def __init__(self, trainee: Trainee, folder: RunFolder, checkpoints: Checkpoints, start: int):
        self._config, self._trainee, self._checkpoints = trainee.config, trainee, checkpoints
        self.log = MetricsLog(folder, step=start, tracker=make_tracker(self._config, folder, start))
        self._begun = time.monotonic() - self.log.seconds
        self._progress = Progress(self._config.train.steps, start, bar=folder.writes)
        self.say = self._progress.say
        self._untold: tuple[int, Metrics] | None = None
        self._seen: deque[tuple[int, float]] = deque(maxlen=2)  # steps, and when the results of the last two were there
        self.stalled = self._is_stalled(start)

    def tell_later(self, step: int, metrics: Metrics, dispatched: float) -> None:
        """Reports the chunk before, and keeps the metrics of the one that ends at `step`."""
        if not self._seen:
            self.say(f"compiled in {time.monotonic() - dispatched:.1f} s")
            self.rests(step - self._config.train.chunk)
        self.tell()
        self._untold = step, metrics

    def tell(self) -> None:
        """Waits for the chunk that was dispatched last, and reports it."""
        if self._untold is None:
            return
        (step, metrics), self._untold = self._untold, None
        record = {"step": step, **self._trainee.record(metrics)}
        now = time.monotonic()
        if record["loss"] is None:
            saved = self._checkpoints.latest_step
            raise Diverged(
                f"loss or parameters became NaN or infinite between steps {step - self._config.train.chunk} and {step} "
                f"(last good checkpoint: {'none yet' if saved is None else f'step {saved}'}); {advice(self._config)}"
            )
        before, then = self._seen[0]  # two chunks ago where there are two: XLA may tell of a result with the next one only
        self._seen.append((step, now))
        speed = (step - before) / (now - then)
        self._add(record if isinstance(record["loss"], list) else record | {"steps_per_second": speed})
        self._progress.training(record, speed)

    def rests(self, step: int) -> None:
        """Leaves the time until now out of the speed of the next chunk."""
        self._seen.clear()
        self._seen.append((step, time.monotonic()))

    def validated(self, step: int, state: TrainState) -> float | None:
        """Validates. Returns the loss that chooses the best checkpoint, or None for a population."""
        record, loss = self._trainee.validate(state)
        if loss is not None and math.isnan(loss):
            raise Diverged(f"predictions are not finite at step {step}; {advice(self._config)}")
        self._add({"step": step, **record})
        if loss is not None:
            self._progress.validation(step, record)
            self.log.validation_losses.append(loss)
            self.stalled = self._is_stalled(step)
        return loss

    def close(self) -> None:
        self._progress.close()
        self.log.close()

    def _add(self, record: dict[str, Any]) -> None:
        self.log.append(record | {"seconds": time.monotonic() - self._begun})

    def _is_stalled(self, step: int) -> bool:
        patience, losses = self._config.train.patience, self.log.validation_losses
        since = len(losses) - 1 - int(np.argmin(losses)) if losses else 0
        stalled = bool(patience and of_first(since >= patience))  # the first process alone has read all of them
        if stalled:
            self.say(f"step {step}: stops early, no lower validation loss in {since} validations")
        return stalled
