"""Many members that share every shape and differ in `Hyper`, trained by one program.

Members are split over the devices by `pmap`. On each device they run under one `vmap`, but on a CPU one after another
(`lax.map`), because a vmapped step is slower on a CPU. In `gpicl bench population`, with 2 cores and episodes of 50, 8 members
of width 8 and 64 made 75 and 40 member-steps/s under `vmap`, 78 and 42 in turns, and 127 and 56 in turns on two devices of one
core each. So a CPU is best cut into one device a core: `one_device_a_core`.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from gpicl_jax.build import make_tasks
from gpicl_jax.evaluation import Evaluator, Scores, drawn_in_parts, validation_keys
from gpicl_jax.hyper import Hyper, compiled_part, hyper_from
from gpicl_jax.learners.base import check_fits, check_memory
from gpicl_jax.sections import Config, final_permute_prob
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import EpisodeKeys, TaskDistribution
from gpicl_jax.training.loop import Trainee
from gpicl_jax.training.parallel import replicate
from gpicl_jax.training.program import make_program
from gpicl_jax.training.step import RUNG, Metrics, TrainState


def one_device_a_core() -> None:
    """Makes JAX see a device for each core of a CPU. It has no effect once JAX has looked for devices."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def hypers_of(configs: list[Config]) -> Hyper:
    """Returns the traced numbers of all members, NumPy arrays [M].

    Raises:
      UserError: the configs differ in what is compiled in.
    """
    if len(set(map(compiled_part, configs))) > 1:
        raise UserError("members of one population may differ in the numbers of Hyper alone; give the others a population each")
    hypers = [hyper_from(config) for config in configs]
    return jax.tree.map(lambda *values_M: np.stack(values_M), *hypers)


class Population(Trainee):
    """A program that trains members side by side. A member's losses are the same as alone, up to rounding.

    Args:
      configs: one for each member.
      devices: devices of this process. At most one for each member is used.
      tasks: tasks of meta-training. The default is those of the configs.
      validation_permute_prob: chance that validation tasks permute their labels. The default is that at the end of the first
        member's training.

    Raises:
      UserError: the configs differ in what is compiled in, or have settings that only a single run has.

    Example:
      >>> from gpicl_jax.config import load_config
      >>> sizes = ("--model.width=8", "--model.num_layers=1", "--tasks.tasks_per_step=2", "--train.chunk=2")
      >>> population = Population([load_config("digits", (*sizes, f"--train.seed={seed}")) for seed in range(3)])
      >>> state, metrics = population.chunk(population.state())
      >>> population.members(metrics["loss"]).shape
      (3,)
    """

    def __init__(
        self,
        configs: list[Config],
        devices: list[jax.Device] | None = None,
        tasks: TaskDistribution | None = None,
        validation_permute_prob: float | None = None,
    ) -> None:
        self.size, self.config = len(configs), configs[0]
        if self.config.train.patience or self.config.log.to:
            raise UserError("train.patience and log.to are of a single run; a population has neither, leave them out")
        self._permute = final_permute_prob(self.config) if validation_permute_prob is None else validation_permute_prob
        self._devices = (devices or jax.local_devices())[: self.size]
        self._hyper = self.restored(hypers_of(configs))
        self._tasks = replicate(tasks or make_tasks(self.config, "train"), self._devices)
        program = make_program(self.config)
        self.learner = program.learner
        check_fits(self.learner, self._tasks)
        at_once = self.config.tasks.tasks_per_step * self.config.tasks.sequences_per_task // self.config.train.accumulate
        members = 1 if self.in_turns else -(-self.size // len(self._devices))
        check_memory(self.learner, self.config.tasks.length, at_once * members)
        chunk = functools.partial(program.chunk, gradient=program.gradient)
        self._init = self._spread(lambda _, hyper: program.init(hyper), 1)
        self._chunk = self._spread(lambda tasks, state, hyper: chunk(state, tasks, hyper), 2, donate=(1,))

    @property
    def in_turns(self) -> bool:
        """Whether the members of a device take their steps one after another."""
        return self._devices[0].platform == "cpu"

    def state(self) -> TrainState:
        """Returns the members before their first step."""
        return self._init((), self._hyper)

    def chunk(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """Takes `train.chunk` steps of every member. Metrics are [D, P, …]. `state` is donated and cannot be used again."""
        return self._chunk(self._tasks, state, self._hyper)

    def record(self, metrics: Metrics) -> dict[str, Any]:
        """Waits for a chunk. Returns `loss`, a list of M, with None where a member diverged, and rungs of curricula."""
        metrics = self.members(metrics)
        rungs = {name: metrics[name].tolist() for name in RUNG if name in metrics}
        return {"loss": _listed(np.where(metrics["finite"], metrics["loss"], np.nan)), **rungs}

    def validate(self, state: TrainState) -> tuple[dict[str, Any], None]:
        """Returns `validation_loss` and `validation_last` as lists of M. All members see the same episodes."""
        tasks, keys, score = self._validation
        parts = [score(replicate(part, self._devices), state.params) for part in drawn_in_parts(tasks, keys, self._permute)]
        rows = zip(*map(self.members, parts), strict=True)  # of each part loss and accuracy [M, R, S', L]
        shape = (self.size, *keys.sequence_TS.shape, self.config.tasks.length)
        loss_MTSL, accuracy_MTSL = (np.concatenate(leaf, axis=1).reshape(shape) for leaf in rows)
        scores_M = [Scores(*each, tasks.episode_context) for each in zip(loss_MTSL, accuracy_MTSL, strict=True)]
        ends = {"loss": (each.loss for each in scores_M), "last": (each.last()[0] for each in scores_M)}
        return {f"validation_{name}": _listed(values_M) for name, values_M in ends.items()}, None

    @functools.cached_property
    def _validation(self) -> tuple[TaskDistribution, EpisodeKeys, Callable[..., Any]]:
        """Tasks, keys, and the function that scores a part of their episodes."""
        settings, score = self.config.eval, Evaluator(self.learner).score
        keys = validation_keys(settings.seed, settings.sequences_per_task)
        return make_tasks(self.config, "validation"), keys, self._spread(lambda part, params: score(params, *part), 1)

    def members(self, tree: Any) -> Any:
        """Waits for arrays on the devices, [D, P, …], and returns them as NumPy arrays [M, …]."""
        return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:])[: self.size], tree)

    def saved(self, arrays: Any) -> Any:
        """Returns arrays [M, …] of the first device, which any number of devices can restore."""
        gathered = jax.tree.map(lambda leaf: jax.device_put(leaf, self._devices[0]), arrays)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: self.size], gathered)

    def restored(self, tree_M: Any) -> Any:
        """Maps [M, …] to [D, P, …], a share for each device. The last shares are filled up with the first members."""
        devices = len(self._devices)
        each = -(-self.size // devices)
        places = np.arange(devices * each) % self.size
        return jax.tree.map(lambda leaf: np.asarray(leaf)[places].reshape(devices, each, *np.shape(leaf)[1:]), tree_M)

    def _spread(self, function: Callable[..., Any], shares: int, donate: tuple[int, ...] = ()) -> Callable[..., Any]:
        """Returns `function(shared, *of_one_member)` over all members, with leading axes [D, P] in and out."""

        def of_device(shared: Any, *shares: Any) -> Any:
            if self.in_turns:
                return jax.lax.map(lambda share: function(shared, *share), shares)
            return jax.vmap(lambda *share: function(shared, *share))(*shares)

        return jax.pmap(of_device, in_axes=(None, *[0] * shares), devices=self._devices, donate_argnums=donate)


def _listed(values_M: Iterable[float]) -> list[float | None]:
    """Returns numbers as JSON allows them: None for NaN and infinity."""
    return [float(value) if math.isfinite(value) else None for value in values_M]
