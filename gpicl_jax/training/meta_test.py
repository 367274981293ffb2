"""The meta-test of a run, on test images and tasks that training never drew, with reference solvers beside the learner."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd

from gpicl_jax.build import make_learner, make_tasks
from gpicl_jax.evaluation import (
    Evaluator,
    Scores,
    drawn_in_parts,
    learning_curve,
    score_together,
    seen_episode_keys,
    shown_images,
    unseen_episode_keys,
)
from gpicl_jax.hyper import hyper_from
from gpicl_jax.runs.checkpoint import Checkpoints
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.sections import IDENTITY, INFINITE, Config, final_permute_prob, learner_name, short_name
from gpicl_jax.settings import UserError
from gpicl_jax.solvers import CHOICE_EPISODES, choose_params, make_solvers
from gpicl_jax.tasks import EpisodeKeys, TaskDistribution
from gpicl_jax.tasks.augmented import seen_task_keys, source_key
from gpicl_jax.tasks.sources.mixture import draw_source
from gpicl_jax.training.divergence import Diverged, advice
from gpicl_jax.training.program import make_program
from gpicl_jax.training.progress import counted


@dataclasses.dataclass(frozen=True)
class MetaTest:
    """The outcome of a meta-test.

    Attributes:
      train: base datasets of meta-training.
      tests: the unseen test tasks of each dataset.
      scores: by (dataset, kind of task, solver), e.g. ("mnist", "unseen_tasks", "transformer").
      images: how many different images the episodes show, by (dataset, kind of task).
      curves: all learning curves as tidy rows.
      settings: settings of the reference solvers, chosen on validation tasks, for projected and for raw inputs.
    """

    learner: str
    train: tuple[str, ...]
    tests: dict[str, TaskDistribution]
    scores: dict[tuple[str, str, str], Scores]
    images: dict[tuple[str, str], int]
    curves: pd.DataFrame
    settings: dict[str, dict[str, dict[str, float]]]


def load_params(folder: RunFolder, config: Config, which: str) -> tuple[Any, int]:
    """Returns parameters and step of a run's `latest` or `best` checkpoint.

    Raises:
      UserError: the run has no checkpoint, or it cannot be read.
    """
    like = jax.eval_shape(make_program(config).init, hyper_from(config))
    if not jax.tree.leaves(like.params):  # nothing is meta-learned
        return like.params, 0
    if folder.checkpoints.is_dir():
        with Checkpoints(folder.checkpoints) as checkpoints:
            step = checkpoints.best_step if which == "best" else checkpoints.latest_step
            if step is not None:
                return checkpoints.load(step, like.stored)["params"], step
    raise UserError(f"no checkpoint in {folder.path}; train the run first: gpicl train CONFIG --run-dir DIR --resume")


def meta_test(
    config: Config,
    params: Any,
    evaluator: Evaluator | None = None,
    datasets: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda _: None,
) -> MetaTest:
    """Scores a trained learner on test images: unseen tasks, seen tasks of a finite set, and no projection.

    Unseen tasks permute their labels with the probability of training. If that is below 1, `unseen_tasks_permuted` are
    unseen tasks that always do. Identity tasks always do. Training sets are tested on their training images as well. The
    reference solvers see the same episodes as the learner, with and without projection. Few-shot problems, and configs without
    projection, have no such solvers.

    Args:
      config: the run's config. `[eval]` says how many episodes.
      params: the learner's parameters.
      evaluator: one whose compiled program can be used again.
      datasets: base datasets to test on. The default is those of meta-training.
      say: called with the name of each finished dataset.

    Raises:
      UserError: a dataset that cannot be loaded or cannot fill an episode, before anything is scored.
      Diverged: predictions or an inner loop are not finite.
    """
    learner, entrant = learner_name(config), (evaluator or Evaluator(make_learner(config)), params)
    tests = held_out_tasks(config, datasets or config.data.train)
    solvers, chosen = _choose_solvers(config)
    scores, images, curves = {}, {}, []
    for dataset, (name, test) in tests.items():
        for kind, (tasks, keys, permute) in _kinds(config, name, test).items():
            others = {solver: (solvers[solver], settings) for solver, settings in chosen.get(kind, {}).items()}
            parts = counted(drawn_in_parts(tasks, keys, permute), f"{dataset}, {kind}:", keys.sequence_TS.size)
            results = score_together({learner: entrant, **others}, parts, keys)
            if not results[learner].finite:
                raise Diverged(f"predictions of {learner} on {dataset} are not finite; {advice(config)}")
            shown_TSL = shown_images(tasks, keys)
            images[dataset, kind] = len(np.unique(shown_TSL))
            about = {"dataset": dataset, "tasks": kind, "distinct_images": images[dataset, kind], "seed": config.train.seed}
            for solver, each in results.items():
                each = dataclasses.replace(each, images_TSL=shown_TSL)
                if solver != learner:  # what they predict are no probabilities
                    each = dataclasses.replace(each, loss_TSL=np.full_like(each.loss_TSL, np.nan))
                scores[dataset, kind, solver] = each
                curves.append(learning_curve(each, solver=solver, **about))
        say(dataset)
    return MetaTest(
        learner=learner,
        train=tuple(map(short_name, config.data.train)),
        tests={dataset: test for dataset, (_, test) in tests.items()},
        scores=scores,
        images=images,
        curves=pd.concat(curves, ignore_index=True),
        settings=chosen,
    )


def _choose_solvers(config: Config) -> tuple[dict[str, Evaluator], dict[str, dict[str, dict[str, float]]]]:
    """Returns the reference solvers, and for each kind of tasks their settings, chosen on validation tasks.

    Both are empty for queries from a context, since solvers predict each row from the rows before it, and without a projection.
    """
    validation = make_tasks(config, "validation")
    if validation.entries == IDENTITY or config.tasks.num_context:
        return {}, {}
    solvers = make_solvers(config.tasks.classes_per_task)
    keys = unseen_episode_keys(config.eval.seed, "validation", CHOICE_EPISODES, 1)
    tasks = {"unseen_tasks": validation, "identity_tasks": dataclasses.replace(validation, entries=IDENTITY)}
    return solvers, {kind: choose_params(solvers, each, keys) for kind, each in tasks.items()}


def held_out_tasks(config: Config, datasets: tuple[str, ...]) -> dict[str, tuple[str, TaskDistribution]]:
    """Returns by the name in tables: the name in the config or command, and unseen tasks on the set's test images.

    Raises:
      UserError: a dataset that cannot be loaded or cannot fill an episode, or two of one name.
    """
    tests: dict[str, tuple[str, TaskDistribution]] = {}
    for name in dict.fromkeys(datasets):
        short = short_name(name)
        if short in tests:
            raise UserError(f"two datasets are called '{short}': {tests[short][0]} and {name}; rename one")
        tests[short] = name, make_tasks(config, "test", name)
    return tests


def _kinds(config: Config, name: str, test: TaskDistribution) -> dict[str, tuple[TaskDistribution, EpisodeKeys, float]]:
    """Returns the kinds of tasks of a dataset's test: tasks, keys, chance of permuted labels."""
    settings, permute = config.eval, final_permute_prob(config)
    num_tasks = settings.episodes // settings.sequences_per_task
    keys = unseen_episode_keys(settings.seed, "test", num_tasks, settings.sequences_per_task)
    kinds = {"unseen_tasks": (test, keys, permute)}
    if test.entries != IDENTITY:
        kinds["identity_tasks"] = dataclasses.replace(test, entries=IDENTITY), keys, 1.0
    train = make_tasks(config, "train", name) if name in config.data.train and test.source.has_splits else None
    if train:
        plain = dataclasses.replace(train, entries=test.entries, clutter=0.0, feature_scales=0.0)
        kinds["unseen_tasks_train_images"] = (plain, keys, permute)
    if permute < 1:
        kinds["unseen_tasks_permuted"] = (test, keys, 1.0)
    ids = _seen_ids(config, name, num_tasks)
    if len(ids) and not (train and train.source.chooses_other_classes(test.source, config.tasks.classes_per_task)):
        seen = dataclasses.replace(test, entries=config.tasks.entries)
        kinds["seen_tasks"] = (seen, seen_episode_keys(hyper_from(config), settings.seed, ids, settings.episodes), permute)
    return kinds


def _seen_ids(config: Config, name: str, most: int) -> np.ndarray:
    """Returns the first ids of the training set. If it mixes sets and `name` is one of them, they are of that set."""
    if config.tasks.num_tasks == INFINITE:
        return np.arange(0)
    train = config.data.train
    ids = np.arange(min(config.tasks.num_tasks, 16 * most * len(train)))
    if name in train and len(train) > 1:
        mixture = make_tasks(config, "train").source
        number = jax.jit(jax.vmap(lambda key: draw_source(mixture, source_key(key))))(seen_task_keys(hyper_from(config), ids))
        ids = ids[np.asarray(number) == train.index(name)]
    return ids[:most]
