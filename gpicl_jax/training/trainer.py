"""One run on one or several devices, as the training loop needs it."""

from typing import Any

import jax
import numpy as np

from gpicl_jax.build import make_tasks
from gpicl_jax.evaluation import Evaluator, validation_keys
from gpicl_jax.hyper import hyper_from
from gpicl_jax.learners.base import check_fits, check_memory, final_rows
from gpicl_jax.processes import of_first
from gpicl_jax.sections import Config, final_permute_prob
from gpicl_jax.training.loop import Trainee
from gpicl_jax.training.parallel import compile_chunk, on_all, own_copy, replicate
from gpicl_jax.training.program import check_shares, make_program
from gpicl_jax.training.step import RUNG, Metrics, TrainState


class Trainer(Trainee):
    """All that a run is built from. Its construction checks what the config alone does not show.

    Args:
      parallel: `pmap` or `jit`, how several devices share a step. See `parallel`.
      devices: devices to train on. The default is all that JAX finds, in all processes.

    Attributes:
      tasks: the task distribution of the training split, on all devices.
      evaluator: scorer of the validations. Its compiled program serves the meta-test too.

    Raises:
      UserError: the devices cannot share a batch evenly, or an episode is longer than a split.

    Example:
      >>> from gpicl_jax.config import load_config
      >>> trainer = Trainer(load_config("digits", ("--train.chunk=10", "--tasks.tasks_per_step=8", "--optimizer.name=adam")))
      >>> state, metrics = trainer.chunk(trainer.state())
      >>> int(state.step)
      10
    """

    def __init__(self, config: Config, *, parallel: str = "pmap", devices: list[jax.Device] | None = None) -> None:
        devices = devices or jax.devices()
        slices = check_shares(config, len(devices))
        self.config, self._devices = config, devices
        self.tasks = replicate(make_tasks(config, "train"), devices)
        self._validation = own_copy(replicate(make_tasks(config, "validation"), devices))
        self.hyper = replicate(hyper_from(config), devices)
        self._program = make_program(config)
        self.learner = self._program.learner
        self.evaluator = Evaluator(self.learner)
        check_fits(self.learner, self.tasks)
        episodes = config.tasks.tasks_per_step * config.tasks.sequences_per_task
        check_memory(self.learner, config.tasks.length, episodes // slices)
        self._chunk = compile_chunk(self._program.chunk, self._program.gradient, parallel=parallel, devices=devices)

    def state(self) -> TrainState:
        """Returns the state before the first step, on all devices."""
        return jax.jit(self._program.init, out_shardings=on_all(self._devices))(self.hyper)

    def chunk(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """Takes `train.chunk` steps. `state` is donated and cannot be used again."""
        return self._chunk(state, self.tasks, self.hyper)

    def record(self, metrics: Metrics) -> dict[str, Any]:
        """Waits for a chunk. Returns mean `loss` (None if it diverged), accuracies, gradient norm, and a curriculum's rung."""
        metrics = jax.device_get(metrics)
        correct_L, scored_L = metrics["correct_L"], metrics["scored_L"]
        record = {"loss": float(metrics["loss"]) if metrics["finite"] else None}
        ends = {"first": slice(0, 1), "last": final_rows(len(scored_L), self.tasks.episode_context)}
        for name, rows in ends.items():
            scored = float(scored_L[rows].sum())
            record[f"accuracy_{name}"] = float(correct_L[rows].sum()) / scored if scored else None
        rung = {name: int(metrics[name]) for name in RUNG if name in metrics}
        return record | {"gradient_norm": float(metrics["gradient_norm"]), **rung}

    def validate(self, state: TrainState) -> tuple[dict[str, Any], float]:
        """Returns a record with loss (nats, of all rows) and accuracies on the validation tasks, and the loss again."""
        settings = self.config.eval
        keys = validation_keys(settings.seed, settings.sequences_per_task)
        scores = self.evaluator(own_copy(state.params), self._validation, keys, final_permute_prob(self.config))
        loss, first = of_first(scores.loss), scores.first()[0]
        ends = {"validation_first": None if np.isnan(first) else first, "validation_last": scores.last()[0]}
        return {"validation_loss": loss, **ends}, loss
