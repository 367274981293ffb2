"""One meta-training step, and many in one call. The functions are pure: state in, state and metrics out."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpicl_jax.build import MakeOptimizer
from gpicl_jax.hyper import Hyper
from gpicl_jax.learners.base import Learner, final_rows
from gpicl_jax.sections import Config
from gpicl_jax.tasks import EpisodeKeys, TaskDistribution, draw_episodes
from gpicl_jax.tasks.augmented import draw_task_keys, stream
from gpicl_jax.tasks.scope import Scope
from gpicl_jax.training.curriculum import Climb, climbed, first_rung, scope_of

Metrics = dict[str, jax.Array]
RUNG = "active_classes", "images_per_class"  # metrics of a curriculum


class TrainState(NamedTuple):
    """Meta-parameters, the optimiser's state, the number of steps taken, and the curriculum's state or ().

    Keys are derived from seed and step.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    climb: Climb | tuple[()] = ()

    @property
    def stored(self) -> dict[str, Any]:
        """What a checkpoint holds: the fields by name, without an empty `climb`."""
        return {name: value for name, value in self._asdict().items() if name != "climb" or value}


# (params, tasks, keys, hyper) -> (gradient, metrics), means over the batch; `parallel` spreads it over devices. Numbers of
# `hyper` that change with time are those of the step.
BatchGradient = Callable[[Any, TaskDistribution, EpisodeKeys, Hyper], tuple[Any, Metrics]]


def init_state(learner: Learner, optimizer: MakeOptimizer, hyper: Hyper, *, curriculum: bool) -> TrainState:
    """Returns the state before the first step."""
    params = learner.init(stream(hyper.seed, "init"))
    return TrainState(params, optimizer(hyper).init(params), jnp.int32(0), first_rung() if curriculum else ())


def num_params(params: Any) -> int:
    """Returns how many numbers `params` holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def draw_batch_keys(tasks: TaskDistribution, step: jax.Array, hyper: Hyper, shape: tuple[int, int]) -> EpisodeKeys:
    """Returns all keys of step number `step`, a function of seed and step alone. `shape` is (T, S)."""
    key = jax.random.fold_in(stream(hyper.seed, "train"), step)
    task_key, sequence_key, learner_key = jax.random.split(key, 3)
    return EpisodeKeys(
        task_T=draw_task_keys(tasks, task_key, hyper, shape[0]),
        sequence_TS=jax.random.split(sequence_key, shape),
        learner_TS=jax.random.split(learner_key, shape),
    )


def batch_gradient(
    params: Any, tasks: TaskDistribution, keys: EpisodeKeys, hyper: Hyper, *, learner: Learner
) -> tuple[Any, Metrics]:
    """Returns the mean loss's gradient and the metrics of the T × S episodes of `keys`."""
    scope = Scope(hyper.active_classes, hyper.images_per_class) if tasks.curriculum else None
    episodes_TS = draw_episodes(tasks, keys.task_T, keys.sequence_TS, hyper.permute_labels_prob, scope)
    episodes_B, key_B = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (episodes_TS, keys.learner_TS))

    def mean_loss(params: Any) -> tuple[jax.Array, Metrics]:
        loss_B, metrics_B = jax.vmap(lambda episode, key: learner.loss(params, episode, key=key))(episodes_B, key_B)
        return loss_B.mean(), {"loss": loss_B.mean(), **_means(metrics_B)}

    return jax.grad(mean_loss, has_aux=True)(params)


def train_step(
    state: TrainState,
    tasks: TaskDistribution,
    hyper: Hyper,
    *,
    config: Config,
    gradient: BatchGradient,
    optimizer: MakeOptimizer,
) -> tuple[TrainState, Metrics]:
    """Draws a batch, and takes one step of the meta-optimiser."""
    keys = draw_batch_keys(tasks, state.step, hyper, (config.tasks.tasks_per_step, config.tasks.sequences_per_task))
    now = hyper._replace(permute_labels_prob=annealed(hyper, state.step))
    if tasks.curriculum:
        scope = scope_of(state.climb.rung, tasks, hyper)
        now = now._replace(active_classes=scope.classes, images_per_class=scope.images)
    gradients, metrics = gradient(state.params, tasks, keys, now)
    updates, opt_state = optimizer(hyper).update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    climb = climbed(state.climb, _last_accuracy(metrics, tasks), tasks, hyper) if tasks.curriculum else ()
    return TrainState(params, opt_state, state.step + 1, climb), metrics


def _last_accuracy(metrics: Metrics, tasks: TaskDistribution) -> jax.Array:
    rows = final_rows(tasks.length, tasks.episode_context)
    return metrics["correct_L"][rows].sum() / jnp.maximum(metrics["scored_L"][rows].sum(), 1e-6)


def train_chunk(
    state: TrainState, tasks: TaskDistribution, hyper: Hyper, *, config: Config, **options: Any
) -> tuple[TrainState, Metrics]:
    """Takes `train.chunk` steps in one `lax.scan`, with the `options` of `train_step`.

    Metrics are means over the steps, and `finite` says whether all numbers were finite.
    """
    step = functools.partial(train_step, tasks=tasks, hyper=hyper, config=config, **options)
    state, metrics_K = jax.lax.scan(lambda state, _: step(state), state, length=config.train.chunk)
    metrics = _means(metrics_K)
    leaves = [metrics["loss"], *jax.tree.leaves((state.params, state.opt_state))]
    metrics["finite"] = jnp.array([jnp.isfinite(leaf).all() for leaf in leaves]).all()
    if tasks.curriculum:  # what the next step will show
        metrics |= zip(RUNG, scope_of(state.climb.rung, tasks, hyper), strict=True)
    return state, metrics


def _means(tree_N: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.mean(axis=0), tree_N)


def annealed(hyper: Hyper, step: jax.Array) -> jax.Array:
    """Returns the chance that a task of a step permutes its labels: p + (1 − p)·min(step / `permute_labels_anneal`, 1).

    Example:
      >>> from gpicl_jax.config import load_config
      >>> from gpicl_jax.hyper import hyper_from
      >>> hyper = hyper_from(load_config("digits", ("--tasks.permute_labels_prob=0.2", "--tasks.permute_labels_anneal=10")))
      >>> [round(float(annealed(hyper, step)), 2) for step in (0, 5, 20)]
      [0.2, 0.6, 1.0]
    """
    prob, steps = hyper.permute_labels_prob, hyper.permute_labels_anneal
    risen = jnp.where(steps > 0, jnp.minimum(step / jnp.maximum(steps, 1), 1.0), 0.0)
    return prob + (1.0 - prob) * risen
