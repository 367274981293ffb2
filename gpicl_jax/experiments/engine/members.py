"""A trained member of a population, and the ways to score it on test tasks."""

import dataclasses
import functools
from typing import Any

import numpy as np

from gpicl_jax.build import make_tasks
from gpicl_jax.evaluation import (
    Evaluator,
    Scores,
    drawn_in_parts,
    score_together,
    seen_episode_keys,
    unseen_episode_keys,
)
from gpicl_jax.experiments.engine.table import Row
from gpicl_jax.hyper import hyper_from
from gpicl_jax.learners.base import Learner, check_fits
from gpicl_jax.sections import Config, final_permute_prob
from gpicl_jax.solvers import CHOICE_EPISODES, choose_params, make_solvers
from gpicl_jax.tasks import EpisodeKeys

_SEEN_TASKS = 64


class Test:
    """Tasks, episodes and programs to score the members of one population, made once. `config` is any member's."""

    def __init__(self, config: Config) -> None:
        self._config, cache = config, functools.cache  # caches live as long as it
        self.evaluator, self.tasks = cache(Evaluator), cache(functools.partial(make_tasks, config, "test"))
        self.chosen, self.episodes = cache(self._choose), {}

    def keys(self, split: str) -> EpisodeKeys:
        """Returns the keys of the episodes of `test` or `validation`."""
        settings = self._config.eval
        num_tasks = settings.episodes // settings.sequences_per_task
        return unseen_episode_keys(settings.seed, split, num_tasks, settings.sequences_per_task)

    def _choose(self) -> dict[str, Any]:
        """Returns the settings of the reference solvers that are best on validation tasks."""
        keys = unseen_episode_keys(self._config.eval.seed, "validation", CHOICE_EPISODES, 1)
        return choose_params(make_solvers(self._config.tasks.classes_per_task), make_tasks(self._config, "validation"), keys)


@dataclasses.dataclass(frozen=True)
class Member:
    """One trained member.

    Attributes:
      config: its training's config.
      params: its meta-parameters.
      learner: its learner.
      test: what scores it.
      records: records of training: `step`, and `loss`, `validation_loss` or `validation_last` where they were measured.
      notes: see `Experiment.begin`.
      steps: steps of meta-training, 0 for a learner without meta-parameters.
      seconds: training time, its share of the population's.
      processor_seconds: training time of its population by `clock`.
    """

    config: Config
    params: Any = None
    learner: Learner | None = None
    test: Test | None = None
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0

    @property
    def diverged(self) -> int | None:
        """The step at which its numbers were first seen not to be finite, or None."""
        return next((record["step"] for record in self.records if record.get("loss", 0.0) is None), None)

    def unseen(
        self,
        dataset: str,
        *,
        length: int | None = None,
        num_context: int | None = None,
        permute_labels_prob: float | None = None,
        keep: bool = True,
    ) -> Scores:
        """Returns the scores on unseen tasks with test images of `dataset`.

        Args:
          dataset: a base dataset.
          length: examples of an episode, if not as in training.
          num_context: examples before the queries, which are all others, for a learner of contexts, if not as in training.
          permute_labels_prob: chance of permuted labels, if not as at the end of training.
          keep: whether the episodes stay in memory for the other members.
        """
        settings, learner, keys = self.config.tasks, self.learner, self.test.keys("test")
        if num_context:
            learner = dataclasses.replace(learner, num_context=num_context)
        shape = {"length": length or settings.length, "num_context": num_context or settings.num_context}
        tasks = dataclasses.replace(self.test.tasks(dataset), **shape)
        check_fits(learner, tasks)
        permute = final_permute_prob(self.config) if permute_labels_prob is None else permute_labels_prob
        parts = drawn_in_parts(tasks, keys, permute)
        if keep:
            kind = (dataset, permute, *shape.values())
            parts = self.test.episodes.get(kind) or self.test.episodes.setdefault(kind, list(parts))
        return score_together({"": (self.test.evaluator(learner), self.params)}, parts, keys)[""]

    def validation(self) -> Scores:
        """Returns the scores on unseen tasks of validation images, all with permuted labels."""
        tasks = make_tasks(self.config, "validation")
        return self.test.evaluator(self.learner)(self.params, tasks, self.test.keys("validation"))

    def beside_solvers(self, dataset: str) -> dict[str, Scores]:
        """Returns the scores of `learner` and of the reference solvers by name, on the same tasks as `unseen`.

        Episodes are drawn again every time: those of large images would not all fit into memory.
        """
        keys, solvers = self.test.keys("test"), make_solvers(self.config.tasks.classes_per_task)
        entrants = {name: (solvers[name], settings) for name, settings in self.test.chosen().items()}
        parts = drawn_in_parts(self.test.tasks(dataset), keys, final_permute_prob(self.config))
        return score_together({"learner": (self.test.evaluator(self.learner), self.params)} | entrants, parts, keys)

    def seen(self) -> Scores:
        """Returns the scores on test images of the first 64 training tasks. A smaller set is repeated."""
        config = self.config
        ids_T = np.arange(_SEEN_TASKS) % config.tasks.num_tasks  # always as many: no shape changes, nothing is compiled anew
        keys = seen_episode_keys(hyper_from(config), config.eval.seed, ids_T, config.eval.episodes)
        tasks = dataclasses.replace(self.test.tasks(config.data.train[0]), entries=config.tasks.entries)
        return self.test.evaluator(self.learner)(self.params, tasks, keys, final_permute_prob(config))


def ends(scores: Scores, **about: Any) -> Row:
    """Returns a row: accuracy at the first example and over the last tenth, and the loss (nats) over all predicted rows."""
    last, error = scores.last()
    return {
        **about,
        "first": scores.first()[0],
        "last": last,
        "last_standard_error": error,
        "loss": scores.loss,
        "episodes": scores.episodes,
    }


def of_member(records: list[dict[str, Any]], index: int) -> list[dict[str, Any]]:
    """Returns the records of one member. Where a record of the population has a list, the member's value stands for it.

    Example:
      >>> of_member([{"step": 5, "loss": [0.1, 0.2]}], 1)
      [{'step': 5, 'loss': 0.2}]
    """
    return [{name: value[index] if isinstance(value, list) else value for name, value in record.items()} for record in records]
