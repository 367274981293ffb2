"""The training loop. It owns all input and output; between two chunks it logs, validates, saves and listens."""

import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from gpicl_jax.build import make_learner, make_optimizer, make_tasks
from gpicl_jax.evaluation import Evaluator, unseen_episode_keys
from gpicl_jax.hyper import hyper_from
from gpicl_jax.learners.base import check_fits, check_memory, final_rows
from gpicl_jax.processes import agreement, of_first
from gpicl_jax.runs.checkpoint import Checkpoints
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import MetricsLog
from gpicl_jax.runs.tracker import make_tracker
from gpicl_jax.sections import Config, final_permute_prob
from gpicl_jax.settings import UserError
from gpicl_jax.training.divergence import Diverged, advice
from gpicl_jax.training.parallel import compile_chunk, on_all, own_copy, replicate
from gpicl_jax.training.profile import Profile
from gpicl_jax.training.progress import Progress
from gpicl_jax.training.signals import Interrupted, StopRequest
from gpicl_jax.training.state import TrainState, init_state
from gpicl_jax.training.step import TrainChunk, batch_gradient, gradient_in_parts, train_chunk, train_step

VALIDATION_EPISODES = 256


class Trainer:
    """Everything that a run is built from; building it checks what the config alone cannot tell.

    Args:
      config: checked settings.
      parallel: `pmap` or `jit`, how several devices share a step; see `parallel`.
      devices: to train on; all that JAX finds by default, in all processes.

    Attributes:
      tasks: the task distribution of the training split, on all devices.
      validation: that of the validation split, on this process's first device.
      learner: see `Learner`.
      hyper: the traced numbers.
      chunk: the compiled chunk, `chunk(state, tasks, hyper) -> (state, metrics)`; it takes over the state's memory.

    Raises:
      UserError: the devices cannot share a batch evenly, or an episode is longer than a split.

    Example:
      >>> from gpicl_jax.config import load_config
      >>> trainer = Trainer(load_config("digits", ("--train.chunk=10", "--tasks.tasks_per_step=8", "--optimizer.name=adam")))
      >>> state, metrics = trainer.chunk(trainer.state(), trainer.tasks, trainer.hyper)
      >>> int(state.step)
      10
    """

    def __init__(self, config: Config, *, parallel: str = "pmap", devices: list[jax.Device] | None = None) -> None:
        devices = devices or jax.devices()
        slices = len(devices) * config.train.accumulate
        if config.tasks.tasks_per_step % slices:
            parts = f" × train.accumulate = {config.train.accumulate}" if config.train.accumulate > 1 else ""
            raise UserError(
                f"tasks.tasks_per_step = {config.tasks.tasks_per_step} is not divisible by the {len(devices)} devices{parts}; "
                f"give a multiple of {slices}"
            )
        self.config, self._devices = config, devices
        self.tasks = replicate(make_tasks(config, "train"), devices)
        self.validation = own_copy(replicate(make_tasks(config, "validation"), devices))
        self.hyper = replicate(hyper_from(config), devices)
        self.learner = make_learner(config)
        check_fits(self.learner, self.tasks)
        episodes = config.tasks.tasks_per_step * config.tasks.sequences_per_task
        check_memory(self.learner, config.tasks.length, max(1, episodes // slices))
        self._optimizer = make_optimizer(config)
        self.chunk: TrainChunk = compile_chunk(
            gradient_in_parts(batch_gradient(self.learner), config.train.accumulate),
            self._make_chunk,
            parallel=parallel,
            devices=devices,
        )

    def _make_chunk(self, gradient) -> TrainChunk:
        tasks = self.config.tasks
        shape = (tasks.tasks_per_step, tasks.sequences_per_task)
        step = functools.partial(train_step, gradient=gradient, optimizer=self._optimizer, shape=shape)
        return train_chunk(step, self.config.train.chunk)

    def state(self) -> TrainState:
        """The state before the first step, on all devices."""
        init = functools.partial(init_state, self.learner, self._optimizer)
        return jax.jit(init, out_shardings=on_all(self._devices))(self.hyper)


class Trained(NamedTuple):
    """What training leaves: the last state, the evaluator of the validations (its compiled program serves the meta-test
    too), the training seconds of earlier commands where this one resumed a run, and whether `train.patience` ended it."""

    state: TrainState
    evaluator: Evaluator
    seconds_before: float
    stopped_early: bool


def train(trainer: Trainer, folder: RunFolder, record: dict[str, Any], profiled: range = range(0)) -> Trained:
    """Trains from the latest checkpoint in `folder`, or from the start, to `train.steps`.

    Args:
      trainer: what to train.
      folder: where; its `config.toml` and `run.json` are brought up to date once nothing speaks against going on.
      record: of this command, for `run.json`.
      profiled: steps to trace into `profile/`.

    Raises:
      Interrupted: by a signal, after a checkpoint.
      Diverged: a loss, a parameter or a prediction became NaN or infinite; the last good checkpoint stays.
      UserError: the latest checkpoint is beyond `train.steps` or the steps to trace, or cannot be read.
    """
    evaluator = Evaluator(trainer.learner)
    with StopRequest() as stop, Checkpoints(folder.checkpoints) as checkpoints:  # a second signal loses no save
        state = trainer.state()
        steps = trainer.config.train.steps if jax.tree.leaves(state.params) else 0  # nothing to meta-learn
        with agreement():
            start = round(of_first(checkpoints.latest_step or 0))  # a shared folder may be listed late elsewhere
            if start > steps:
                raise UserError(f"{folder.path} is already at step {start}, past train.steps = {steps}; raise train.steps")
            if profiled and start >= profiled.stop:
                raise UserError(f"{folder.path} is already at step {start}, past --profile-steps; give later ones")
            if start:
                state = checkpoints.load(start, state)
        folder.write_config(trainer.config)  # a resumed run may have more steps than it began with
        folder.write_json("run.json", {"commands": [*(folder.read_json("run.json") or {"commands": []})["commands"], record]})
        course, profile = _Course(trainer, folder, evaluator, checkpoints, start), Profile(profiled, folder.path / "profile")
        try:
            for step in range(start, steps, trainer.config.train.chunk):
                if course.stalled:
                    break
                chunk = range(step, step + trainer.config.train.chunk)
                profile.before(chunk, state)
                stop.ask()
                state = course.advance(state, step)
                profile.after(chunk, state)
                course.between_chunks(state, stop.answer())
            stop.ask()
            if (signum := stop.answer()) is not None:  # it came after the last chunk began, whose state is saved
                raise Interrupted(signum, steps)
        finally:
            profile.close()
            course.close()
    return Trained(state, evaluator, course.seconds_before, course.stalled)


class _Course:
    """The loop's bookkeeping: metrics one chunk late, validations, checkpoints."""

    def __init__(self, trainer: Trainer, folder: RunFolder, evaluator: Evaluator, checkpoints: Checkpoints, start: int):
        self._trainer, self._evaluator, self._checkpoints = trainer, evaluator, checkpoints
        self._settings = trainer.config.train
        self._log = MetricsLog(folder, step=start, tracker=make_tracker(trainer.config, folder, start))
        self._losses = self._log.validation_losses
        self.progress = Progress(self._settings.steps, start)
        self._step = self._reported = start
        self.stalled = self._is_stalled()
        self._pending: dict[str, jax.Array] | None = None
        self._compiled = False
        self.seconds_before = self._log.seconds
        self._begun = time.monotonic() - self.seconds_before
        self._mark = time.monotonic()

    def advance(self, state: TrainState, step: int) -> TrainState:
        """Dispatches the next chunk, then reports the one before it, which has been running meanwhile."""
        begun = time.monotonic()
        state, metrics = self._trainer.chunk(state, self._trainer.tasks, self._trainer.hyper)
        if not self._compiled:
            self._compiled = True
            self._mark = time.monotonic()
            self.progress.say(f"compiled in {self._mark - begun:.1f} s")
        self._report()
        self._pending, self._step = metrics, step + self._settings.chunk
        return state

    def between_chunks(self, state: TrainState, signum: int | None) -> None:
        """Validates and saves where the step number says so; saves and leaves where a signal says so."""
        at_end = self._step == self._settings.steps
        due = at_end or self._step % self._settings.validate_every == 0
        if due or signum is not None:
            self._report()  # nothing that is not finite may be saved
            self._checkpoints.save(self._step, state, self._validate(state) if due else None)
            self.stalled = due and self._is_stalled()
            self._mark = time.monotonic()
        if signum is not None:
            raise Interrupted(signum, self._step)

    def close(self) -> None:
        self.progress.close()
        self._log.close()

    def _is_stalled(self) -> bool:
        """Whether the lowest validation loss is `train.patience` validations old."""
        if not self._settings.patience:
            return False
        since = len(self._losses) - 1 - int(np.argmin(self._losses)) if self._losses else 0
        stalled = bool(of_first(float(since >= self._settings.patience)))  # the first process alone has read all of them
        if stalled:
            self.progress.say(f"step {self._step}: stops early, no lower validation loss in {since} validations")
        return stalled

    def _report(self) -> None:
        if self._pending is None:
            return
        metrics, self._pending = jax.device_get(self._pending), None
        now = time.monotonic()
        if not metrics["finite"]:
            saved = self._checkpoints.latest_step
            raise Diverged(
                f"loss or parameters became NaN or infinite between steps {self._reported} and {self._step} "
                f"(last good checkpoint: {'none yet' if saved is None else f'step {saved}'}); "
                f"{advice(self._trainer.config)}"
            )
        record = {
            "step": self._step,
            "loss": float(metrics["loss"]),
            **_accuracy_ends(metrics["correct_L"], metrics["scored_L"], self._trainer.config.tasks.num_context),
            "gradient_norm": float(metrics["gradient_norm"]),
            "steps_per_second": self._settings.chunk / (now - self._mark),
            "seconds": now - self._begun,
        }
        self._reported, self._mark = self._step, now
        self._log.append(record)
        self.progress.training(record)

    def _validate(self, state: TrainState) -> float:
        settings = self._trainer.config.eval
        num_tasks = max(2, VALIDATION_EPISODES // settings.sequences_per_task)
        keys = unseen_episode_keys(settings.seed, "validation", num_tasks, settings.sequences_per_task)
        permute = final_permute_prob(self._trainer.config)
        scores = self._evaluator(own_copy(state.params), self._trainer.validation, keys, permute)
        loss = of_first(float(np.nanmean(scores.loss_TSL)) if scores.finite else np.nan)
        if np.isnan(loss):
            raise Diverged(f"predictions are not finite at step {self._step}; {advice(self._trainer.config)}")
        first = scores.first()[0]
        record = {
            "step": self._step,
            "validation_loss": loss,
            "validation_first": None if np.isnan(first) else first,
            "validation_last": scores.last()[0],
            "seconds": time.monotonic() - self._begun,
        }
        self._log.append(record)
        self.progress.validation(record)
        self._losses.append(loss)
        return loss


def _accuracy_ends(correct_L: np.ndarray, scored_L: np.ndarray, num_context: int) -> dict[str, float | None]:
    """Accuracy at the first row and over the `final_rows`; None where no row was scored."""
    ends = {"accuracy_first": slice(0, 1), "accuracy_last": final_rows(len(correct_L), num_context)}
    counts = {name: (float(correct_L[rows].sum()), float(scored_L[rows].sum())) for name, rows in ends.items()}
    return {name: correct / scored if scored else None for name, (correct, scored) in counts.items()}
