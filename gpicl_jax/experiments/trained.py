"""A population that is trained, and the ways to score its members on test tasks."""

import copy
import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy import stats

from gpicl_jax.build import make_tasks
from gpicl_jax.evaluation import (
    Evaluator,
    Scores,
    drawn_in_parts,
    score_together,
    seen_episode_keys,
    unseen_episode_keys,
)
from gpicl_jax.experiments.grid import Row
from gpicl_jax.hyper import hyper_from
from gpicl_jax.learners.base import Learner, check_fits
from gpicl_jax.sections import Config, final_permute_prob
from gpicl_jax.solvers import CHOICE_EPISODES, choose_params, make_solvers
from gpicl_jax.tasks import EpisodeKeys, TaskDistribution

_SEEN_TASKS = 64


@dataclasses.dataclass(frozen=True)
class Member:
    """One trained member.

    Attributes:
      config: of its training.
      params: its meta-parameters.
      records: of training: `step`, and `loss`, `validation_loss` or `validation_last` where they were measured.
      diverged: the step by which its numbers were no longer finite, else None.
      test: what scores it.
    """

    config: Config
    params: Any
    records: list[dict[str, Any]]
    diverged: int | None
    test: "Test"

    def unseen(
        self, dataset: str, *, length: int | None = None, num_context: int = 0, permute_labels_prob: float | None = None
    ) -> Scores:
        """On tasks that training never drew and test images of `dataset`.

        Args:
          dataset: a base dataset.
          length: of the episodes, where it is not that of training.
          num_context: of the episodes whose other examples are all queries, for a learner of contexts; else 0.
          permute_labels_prob: where it is not that at the end of training.
        """
        permute = final_permute_prob(self.config) if permute_labels_prob is None else permute_labels_prob
        test = self.test.with_context(num_context) if num_context else self.test
        return test.unseen(self.params, dataset, permute, length or self.config.tasks.length, num_context)

    def beside_solvers(self, dataset: str) -> dict[str, Scores]:
        """On the same tasks as `unseen`: `learner`, and the reference solvers by name, all on the same episodes."""
        return self.test.beside_solvers(self.params, dataset, final_permute_prob(self.config))

    def with_params(self, params: Any) -> "Member":
        """Other weights in the same learner."""
        return dataclasses.replace(self, params=jax.device_put(params, jax.local_devices()[0]))

    def with_learner(self, learner: Learner) -> "Member":
        """The same weights in a learner that uses them in another way."""
        return dataclasses.replace(self, test=self.test.with_learner(learner))

    def seen(self) -> Scores:
        """On the first 64 tasks of the training set, or on all again and again where there are fewer, with test images."""
        return self.test.seen(self.params, self.config)


class Test:
    """Scores members of one population; episodes and programs are made once.

    Args:
      config: of any member.
      learner: of all.
    """

    def __init__(self, config: Config, learner: Learner) -> None:
        self.learner, self._config, self._evaluator = learner, config, Evaluator(learner)
        self._unseen, self._tasks = functools.cache(self._draw_unseen), functools.cache(self._make_tasks)  # live as long as it
        self._chosen, self.with_context = functools.cache(self._choose), functools.cache(self._with_context)

    def with_learner(self, learner: Learner) -> "Test":
        """Of another learner, on the same episodes."""
        other = copy.copy(self)
        other.learner, other._evaluator = learner, Evaluator(learner)
        other.with_context = functools.cache(other._with_context)  # the one that was copied is of the old learner
        return other

    def _with_context(self, num_context: int) -> "Test":
        """Of the same learner, whose contexts are all of one size."""
        return self.with_learner(dataclasses.replace(self.learner, num_context=num_context))

    def unseen(self, params: Any, dataset: str, permute: float, length: int, num_context: int = 0) -> Scores:
        parts, keys = self._unseen(dataset, permute, length, num_context)
        return score_together({"": (self._evaluator, params)}, parts, keys)[""]

    def beside_solvers(self, params: Any, dataset: str, permute: float) -> dict[str, Scores]:
        """Episodes are drawn again each time: those of large images would not all fit into memory."""
        keys, solvers = self._test_keys(), make_solvers(self._config.tasks.classes_per_task)
        entrants = {"learner": (self._evaluator, params)}
        entrants |= {name: (solvers[name], chosen) for name, chosen in self._chosen().items()}
        return score_together(entrants, drawn_in_parts(self._tasks(dataset), keys, permute), keys)

    def _choose(self) -> dict[str, Any]:
        solvers = make_solvers(self._config.tasks.classes_per_task)
        keys = unseen_episode_keys(self._config.eval.seed, "validation", CHOICE_EPISODES, 1)
        return choose_params(solvers, make_tasks(self._config, "validation"), keys)

    def _test_keys(self) -> EpisodeKeys:
        settings = self._config.eval
        num_tasks = settings.episodes // settings.sequences_per_task
        return unseen_episode_keys(settings.seed, "test", num_tasks, settings.sequences_per_task)

    def seen(self, params: Any, config: Config) -> Scores:
        ids_T = np.arange(_SEEN_TASKS) % config.tasks.num_tasks  # always as many: no shape changes, nothing is compiled anew
        keys = seen_episode_keys(hyper_from(config), config.eval.seed, ids_T, config.eval.episodes)
        tasks = dataclasses.replace(self._tasks(config.data.train[0]), entries=config.tasks.entries)
        return self._evaluator(params, tasks, keys, final_permute_prob(config))

    def _draw_unseen(self, dataset: str, permute: float, length: int, num_context: int) -> tuple[list[Any], EpisodeKeys]:
        keys = self._test_keys()
        tasks = dataclasses.replace(self._tasks(dataset), length=length, num_context=num_context)
        check_fits(self.learner, tasks)
        return list(drawn_in_parts(tasks, keys, permute)), keys

    def _make_tasks(self, dataset: str) -> TaskDistribution:
        return make_tasks(self._config, "test", dataset)


def ends(scores: Scores, **about: Any) -> Row:
    """A row of the CSV: accuracy at the first example and over the last tenth, loss (nats) over all rows that are predicted."""
    last, error = scores.last()
    return {
        **about,
        "first": scores.first()[0],
        "last": last,
        "last_standard_error": error,
        "loss": float(np.nanmean(scores.loss_TSL)),
        "episodes": scores.episodes,
    }


def half_width(values: pd.Series, errors: pd.Series) -> float:
    """Of the 95% interval of a mean over seeds, for other seeds and other problems of the same test classes; a wide one.

    The seeds share their test problems, so that their spread does not show all error of those: both count, Student's interval
    over seeds and 1.96 standard errors over problems, as the root of the sum of their squares. Of one seed the latter alone.
    NaN where a seed has no value.

    Args:
      values: of each seed.
      errors: standard errors of them, over problems.

    Example:
      >>> round(half_width(pd.Series([0.7, 0.8, 0.9]), pd.Series([0.05] * 3)), 3)
      0.267
    """
    of_problems, seeds = 1.96 * errors.mean(skipna=False), len(values)
    of_seeds = stats.t.ppf(0.975, seeds - 1) * values.std(ddof=1, skipna=False) / seeds**0.5 if seeds > 1 else 0.0
    return math.hypot(of_seeds, of_problems)


def mean_and_deviation(values: pd.Series) -> str:
    """Over seeds: mean ± standard deviation, or of one seed its value.

    Example:
      >>> mean_and_deviation(pd.Series([0.7, 0.8, 0.9])), mean_and_deviation(pd.Series([0.7]))
      ('0.800 ± 0.100', '0.700')
    """
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def member(tree_M: Any, index: int) -> Any:
    """The tree of one member on the first device."""
    return jax.device_put(jax.tree.map(lambda leaf: leaf[index], tree_M), jax.local_devices()[0])
