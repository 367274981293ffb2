"""Many members that share every shape and differ in `Hyper`, trained by one program.

Members are split over the devices by `pmap`. On each device they run under one `vmap`, but on a CPU one after another
(`lax.map`), because there a vmapped step is slower than the same step in turns: 8 members of width 8 and 64 made 75 and 40
member-steps/s under `vmap`, 78 and 42 in turns, and 127 and 56 in turns on two devices of one core each (2 cores, episodes of
50; `gpicl bench population`). So a CPU is best cut into one device a core: `one_device_a_core`.
"""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.build import make_learner, make_optimizer, make_tasks
from gpicl_jax.evaluation import drawn_in_parts, unseen_episode_keys
from gpicl_jax.hyper import Hyper, compiled_part, hyper_from
from gpicl_jax.learners.base import Learner, check_fits, check_memory, final_rows
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Episode, TaskDistribution
from gpicl_jax.training.parallel import replicate
from gpicl_jax.training.state import TrainState, init_state
from gpicl_jax.training.step import Metrics, batch_gradient, gradient_in_parts, train_chunk, train_step

VALIDATION_EPISODES = 128
_AT_ONCE = 32  # of these: an inner loop over images takes memory


def one_device_a_core() -> None:
    """Lets JAX see a device for each core where it runs on a CPU; has no effect once it has looked for devices."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def hypers_of(configs: list[Config]) -> Hyper:
    """The traced numbers of all members, NumPy arrays [M].

    Raises:
      UserError: the configs differ in what is compiled in.
    """
    if len(set(map(compiled_part, configs))) > 1:
        raise UserError("members of one population may differ in the numbers of Hyper alone; give the others a population each")
    hypers = [hyper_from(config) for config in configs]
    return jax.tree.map(lambda *values_M: np.stack(values_M), *hypers)


class Population:
    """A program that trains members side by side; a member's losses are those that it has alone, up to rounding.

    Args:
      configs: one for each member.
      devices: of this process; as many as there are members at most are used.
      tasks: of meta-training, where they are not those of the configs.

    Example:
      >>> from gpicl_jax.config import load_config
      >>> sizes = ("--model.width=8", "--tasks.length=10", "--tasks.tasks_per_step=2", "--train.chunk=2")
      >>> population = Population([load_config("digits", (*sizes, f"--train.seed={seed}")) for seed in range(3)])
      >>> state, metrics = population.chunk(population.state())
      >>> population.members(metrics["loss"]).shape
      (3,)
    """

    def __init__(
        self, configs: list[Config], devices: list[jax.Device] | None = None, tasks: TaskDistribution | None = None
    ) -> None:
        self.size, self.config = len(configs), configs[0]
        self._devices = (devices or jax.local_devices())[: self.size]
        self._hyper = self.split(hypers_of(configs))
        self._tasks = replicate(tasks or make_tasks(self.config, "train"), self._devices)
        self.learner = make_learner(self.config)
        check_fits(self.learner, self._tasks)
        at_once = self.config.tasks.tasks_per_step * self.config.tasks.sequences_per_task // self.config.train.accumulate
        members = 1 if self.in_turns else -(-self.size // len(self._devices))
        check_memory(self.learner, self.config.tasks.length, at_once * members)
        optimizer, settings = make_optimizer(self.config), self.config.tasks
        step = functools.partial(
            train_step,
            gradient=gradient_in_parts(batch_gradient(self.learner), self.config.train.accumulate),
            optimizer=optimizer,
            shape=(settings.tasks_per_step, settings.sequences_per_task),
        )
        chunk = train_chunk(step, self.config.train.chunk)
        self._init = self._spread(lambda _, hyper: init_state(self.learner, optimizer, hyper), 1)
        self._chunk = self._spread(lambda tasks, state, hyper: chunk(state, tasks, hyper), 2, donate=(1,))

    @property
    def in_turns(self) -> bool:
        """Whether the members of a device take their steps one after another."""
        return self._devices[0].platform == "cpu"

    def state(self) -> TrainState:
        """The members before their first step."""
        return self._init((), self._hyper)

    def chunk(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """`train.chunk` steps of every member; metrics [D, P, …]. `state` is donated: do not use it again."""
        return self._chunk(self._tasks, state, self._hyper)

    def validation(self, permute_labels_prob: float) -> Callable[[TrainState], Metrics]:
        """A function of the state: `loss` (nats, of all rows) and `last` (accuracy over the `final_rows`), [M] each.

        All members see the same unseen tasks and held-out images; there are `VALIDATION_EPISODES` of them.
        """
        keys = unseen_episode_keys(self.config.eval.seed, "validation", VALIDATION_EPISODES, 1)
        parts = list(drawn_in_parts(make_tasks(self.config, "validation"), keys, permute_labels_prob))
        parts_R = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        shared = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), parts_R)
        final = final_rows(self.config.tasks.length, self.config.tasks.num_context)
        return self.each(functools.partial(_validate, self.learner, final), shared)

    def each(self, function: Callable[[Any, Any], Any], shared: Any) -> Callable[[TrainState], Any]:
        """`function(shared, params)` of every member: a function of the state, whose values are NumPy arrays [M, …]."""
        run, shared = self._spread(function, 1), replicate(shared, self._devices)
        return lambda state: self.members(run(shared, state.params))

    def members(self, tree: Any) -> Any:
        """What lies on the devices, [D, P, …], as NumPy arrays [M, …]; waits for it."""
        return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:])[: self.size], tree)

    def members_of(self, state: TrainState) -> TrainState:
        """The same as arrays of the first device, for a checkpoint that any number of devices can restore."""
        gathered = jax.tree.map(lambda leaf: jax.device_put(leaf, self._devices[0]), state)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: self.size], gathered)

    def split(self, tree_M: Any) -> Any:
        """[M, …] → [D, P, …], a share for each device; the last shares are filled up with the first members."""
        devices = len(self._devices)
        each = -(-self.size // devices)
        places = np.arange(devices * each) % self.size
        return jax.tree.map(lambda leaf: np.asarray(leaf)[places].reshape(devices, each, *np.shape(leaf)[1:]), tree_M)

    def _spread(self, function: Callable[..., Any], shares: int, donate: tuple[int, ...] = ()) -> Callable[..., Any]:
        """`function(shared, *of_one_member)` over all members: leading axes [D, P] of what comes in and goes out."""

        def of_device(shared: Any, *shares: Any) -> Any:
            if self.in_turns:
                return jax.lax.map(lambda share: function(shared, *share), shares)
            return jax.vmap(lambda *share: function(shared, *share))(*shares)

        return jax.pmap(of_device, in_axes=(None, *[0] * shares), devices=self._devices, donate_argnums=donate)


def _validate(learner: Learner, final: slice, shared: tuple[Episode, jax.Array], params: Any) -> Metrics:
    def score(episode: Episode, key: jax.Array) -> tuple[jax.Array, Metrics]:
        return learner.loss(params, episode, key=key)

    loss_B, counts_B = jax.lax.map(lambda pair: score(*pair), shared, batch_size=_AT_ONCE)
    correct, scored = (counts_B[name][:, final].sum() for name in ("correct_L", "scored_L"))
    return {"loss": loss_B.mean(), "last": correct / jnp.maximum(scored, 1.0)}
