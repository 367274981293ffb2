"""Meta-test: how well a learner predicts row i of an episode, on seen, unseen and identity tasks."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from gpicl_jax.hyper import Hyper
from gpicl_jax.learners.base import Learner, check_fits, final_rows, score_rows
from gpicl_jax.tasks import Episode, EpisodeKeys, TaskDistribution, draw_episodes
from gpicl_jax.tasks.augmented import seen_task_keys, source_key, stream

VALIDATION_EPISODES = 256
COLUMNS = ["dataset", "tasks", "position", "solver", "accuracy", "loss", "standard_error"]
COLUMNS += ["episodes", "distinct_images", "seed"]
_EPISODES_AT_ONCE = {"cpu": 16}  # of 64 a prediction takes twice as long there: they leave the cache
_EPISODES_AT_ONCE_ELSEWHERE = 64


def unseen_episode_keys(seed: int, name: str, num_tasks: int, sequences_per_task: int) -> EpisodeKeys:
    """Returns keys of tasks that no training step can draw. `name` is `validation` or `test`, which share no task."""
    task_root, sequence_root, learner_root = jax.random.split(stream(seed, name), 3)
    shape = (num_tasks, sequences_per_task)
    return EpisodeKeys(
        task_T=jax.vmap(jax.random.fold_in, in_axes=(None, 0))(task_root, np.arange(num_tasks)),
        sequence_TS=jax.random.split(sequence_root, shape),
        learner_TS=jax.random.split(learner_root, shape),
    )


def validation_keys(seed: int, sequences_per_task: int) -> EpisodeKeys:
    """Returns the keys of a validation in training: `VALIDATION_EPISODES` episodes of two tasks or more."""
    num_tasks = max(2, VALIDATION_EPISODES // sequences_per_task)
    return unseen_episode_keys(seed, "validation", num_tasks, sequences_per_task)


def seen_episode_keys(hyper: Hyper, seed: int, ids_T: np.ndarray, episodes: int) -> EpisodeKeys:
    """Returns keys of training tasks, with as many sequences for each task as `episodes` allow."""
    keys = unseen_episode_keys(seed, "test", len(ids_T), max(1, episodes // len(ids_T)))
    return keys._replace(task_T=seen_task_keys(hyper, ids_T))


@dataclasses.dataclass(frozen=True)
class Scores:
    """Loss (nats) and accuracy of every row of T tasks × S episodes. Rows that the learner does not predict are NaN.

    Attributes:
      num_context: of the episodes. It is L, or None, where each row is predicted from those before it.
      images_TSL: which examples the rows show, from `shown_images`.
    """

    loss_TSL: np.ndarray
    accuracy_TSL: np.ndarray
    num_context: int | None = None
    images_TSL: np.ndarray | None = None

    @property
    def finite(self) -> bool:
        """Whether all predicted rows have a finite loss. They do not where an inner loop diverged."""
        return bool(np.isfinite(self.loss_TSL[~np.isnan(self.accuracy_TSL)]).all())

    @property
    def episodes(self) -> int:
        return self.accuracy_TSL.shape[0] * self.accuracy_TSL.shape[1]

    @property
    def loss(self) -> float:
        """Mean loss (nats) of all predicted rows, or NaN where it is not finite."""
        return float(np.nanmean(self.loss_TSL)) if self.finite else math.nan

    def accuracy(self, positions: slice) -> tuple[float, float]:
        """Returns the mean accuracy over some rows and its standard error, clustered by task."""
        return _mean_and_error(self.accuracy_TSL[:, :, positions])

    def image_error(self, positions: slice) -> float:
        """Returns the standard error of the mean accuracy over some rows, clustered by the image that a row asks for.

        It is √(Σ_i (Σ_{rows r of image i} (a_r − ā))²) / R for R rows, times √(I / (I − 1)) for I images (Liang & Zeger 1986).
        """
        accuracies_R, (images_R, number) = (
            self.accuracy_TSL[:, :, positions].ravel(),
            np.unique(self.images_TSL[:, :, positions], return_inverse=True),
        )
        of_image_I = np.bincount(number.ravel(), accuracies_R - accuracies_R.mean())
        return float(np.sqrt((of_image_I**2).sum() * len(images_R) / max(1, len(images_R) - 1)) / len(accuracies_R))

    def first(self) -> tuple[float, float]:
        """Returns the accuracy of the first row and its standard error."""
        return self.accuracy(slice(0, 1))

    def last(self) -> tuple[float, float]:
        """Returns the accuracy over the last 10% of rows, or over all queries of a fixed context, and its standard error."""
        return self.accuracy(self.final)

    @property
    def final(self) -> slice:
        """The last 10% of rows, or all queries of a fixed context."""
        return final_rows(self.accuracy_TSL.shape[-1], self.num_context)


class Evaluator:
    """A scorer of one learner, which keeps its compiled programs between calls.

    A learner with `cuts` is scored at those positions only, with a separate prediction for each. Other rows are NaN.

    Raises:
      UserError: the inputs, classes or lengths of the tasks do not fit the learner.

    Example:
      >>> from gpicl_jax.config import load_config
      >>> from gpicl_jax.build import make_learner, make_tasks
      >>> config = load_config("digits_transformer", ("--model.width=16",))
      >>> tasks = make_tasks(config, "test")
      >>> learner = make_learner(config)
      >>> keys = unseen_episode_keys(0, "test", num_tasks=4, sequences_per_task=2)
      >>> scores = Evaluator(learner)(learner.init(jax.random.key(0)), tasks, keys)
      >>> scores.accuracy_TSL.shape                                           # T, S, L
      (4, 2, 100)
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.score = jax.jit(_score_episodes(learner))

    def __call__(self, params: Any, tasks: TaskDistribution, keys: EpisodeKeys, permute_labels_prob: float = 1.0) -> Scores:
        check_fits(self.learner, tasks)
        return score_together({"": (self, params)}, drawn_in_parts(tasks, keys, permute_labels_prob), keys)[""]


def score_together(
    entrants: dict[str, tuple[Evaluator, Any]], parts: Iterable[tuple[Episode, jax.Array]], keys: EpisodeKeys
) -> dict[str, Scores]:
    """Scores several learners, each with its params, on the same episodes: `parts` is `drawn_in_parts(…, keys, …)`."""
    results: dict[str, list] = {name: [] for name in entrants}
    num_context = None
    for episodes, learner_keys in parts:
        num_context = int(episodes.num_context.max())
        for name, (evaluator, params) in entrants.items():
            results[name].append(evaluator.score(params, episodes, learner_keys))
    scores = {}
    for name, each in results.items():
        rows = [np.concatenate(leaf) for leaf in zip(*jax.device_get(each), strict=True)]
        scores[name] = Scores(*(leaf.reshape(*keys.sequence_TS.shape, -1) for leaf in rows), num_context)
    return scores


def drawn_in_parts(
    tasks: TaskDistribution, keys: EpisodeKeys, permute_labels_prob: float = 1.0
) -> Iterator[tuple[Episode, jax.Array]]:
    """Yields (episodes, learner keys) of a few tasks and sequences at a time. Memory is that of 16 to 64 episodes.

    Their leading axes are [R, S']. A task with many sequences fills several rows. All rows together, in order, are the
    T × S episodes of `keys`.
    """
    sequences = keys.sequence_TS.shape[1]
    episodes_at_once = _EPISODES_AT_ONCE.get(jax.default_backend(), _EPISODES_AT_ONCE_ELSEWHERE)
    together = math.gcd(sequences, episodes_at_once)
    task_R = jnp.repeat(keys.task_T, sequences // together)
    sequence_RS, learner_RS = keys.sequence_TS.reshape(-1, together), keys.learner_TS.reshape(-1, together)
    at_once = episodes_at_once // together
    for start in range(0, len(task_R), at_once):
        part = slice(start, start + at_once)
        yield _draw(tasks, task_R[part], sequence_RS[part], np.float32(permute_labels_prob)), learner_RS[part]


def shown_images(tasks: TaskDistribution, keys: EpisodeKeys) -> np.ndarray:
    """Returns a number for each example that the episodes of `keys` show, [T, S, L], the same for the same example."""
    shown_TSL = tasks.source.shown(jax.vmap(source_key)(keys.task_T), keys.sequence_TS, tasks.drawing)
    if shown_TSL is None:
        shape = (*keys.sequence_TS.shape, tasks.length)
        return np.arange(np.prod(shape)).reshape(shape)
    return shown_TSL


_draw = jax.jit(draw_episodes)


def _score_episodes(learner: Learner) -> Callable[[Any, Episode, jax.Array], tuple[jax.Array, jax.Array]]:
    def score(params: Any, episodes_RS: Episode, learner_RS: jax.Array) -> tuple[jax.Array, jax.Array]:
        def score_at_once(episode: Episode, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            scored_L = learner.scored_rows(episode)
            rows = score_rows(learner.predict(params, episode, key=key), episode.y_L)
            return jax.tree.map(lambda row_L: jnp.where(scored_L, row_L, jnp.nan), rows)

        def score_at_cuts(episode: Episode, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            """Scores row i by a prediction from exactly i examples."""

            def at(cut: jax.Array, x_LX: jax.Array, y_L: jax.Array) -> tuple[jax.Array, jax.Array]:
                rows = score_rows(learner.predict(params, Episode(x_LX, y_L, cut), key=key), y_L)
                return jax.tree.map(lambda row_L: row_L[cut], rows)

            loss_L = accuracy_L = jnp.full(len(episode.y_L), jnp.nan)
            for cuts, seen in _cuts_together(learner, len(episode.y_L)):
                cut_K = jnp.array(cuts)
                loss_K, accuracy_K = jax.lax.map(functools.partial(at, x_LX=episode.x_LX[:seen], y_L=episode.y_L[:seen]), cut_K)
                loss_L, accuracy_L = loss_L.at[cut_K].set(loss_K), accuracy_L.at[cut_K].set(accuracy_K)
            return loss_L, accuracy_L

        length = episodes_RS.y_L.shape[-1]
        return jax.vmap(jax.vmap(score_at_cuts if learner.cuts(length) else score_at_once))(episodes_RS, learner_RS)

    return score


def _cuts_together(learner: Learner, length: int) -> list[tuple[list[int], int]]:
    """Returns groups of a learner's cuts, each with the number of first examples that it needs: its context and one query.

    Small cuts need only the first quarter or half of the episode, which takes less time. A learner whose queries see each other
    needs all of it.
    """
    bounds = [length] if learner.transductive else [length // 4, length // 2 + 1, length]
    groups = [([cut for cut in learner.cuts(length) if low <= cut < high], high) for low, high in pairwise([0, *bounds])]
    return [group for group in groups if group[0]]


def _mean_and_error(values_TSx: np.ndarray) -> tuple[float, float]:
    """Returns the mean over all values, and the standard error of the mean of the T task means (NaN for one task)."""
    task_means = np.asarray(values_TSx, np.float64).reshape(len(values_TSx), -1).mean(axis=1)
    error = task_means.std(ddof=1) / np.sqrt(len(task_means)) if len(task_means) > 1 else np.nan
    return float(task_means.mean()), float(error)


def learning_curve(scores: Scores, *, dataset: str, tasks: str, solver: str, distinct_images: int, seed: int) -> pd.DataFrame:
    """Returns tidy rows, one a position (examples seen before it). Standard errors of the accuracy are clustered by task."""
    rows = []
    for position in range(scores.accuracy_TSL.shape[-1]):
        accuracy, error = scores.accuracy(slice(position, position + 1))
        if np.isnan(accuracy):
            continue
        loss = _mean_and_error(scores.loss_TSL[:, :, position])[0]
        rows.append((dataset, tasks, position, solver, accuracy, loss, error, scores.episodes, distinct_images, seed))
    return pd.DataFrame(rows, columns=COLUMNS)
