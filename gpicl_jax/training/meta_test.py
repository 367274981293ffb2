"""The meta-test of a run: test images, tasks that training never drew, reference solvers beside the learner."""

import dataclasses
import io
import math
from typing import Any

import pandas as pd

from gpicl_jax import figures
from gpicl_jax.config import INFINITE, Config, UserError, hyper_from
from gpicl_jax.evaluation import (
    EpisodeKeys,
    Evaluator,
    Scores,
    last_rows,
    learning_curve,
    seen_episode_keys,
    unseen_episode_keys,
)
from gpicl_jax.factory import make_learner, make_optimizer, make_tasks
from gpicl_jax.runs.checkpoint import Checkpoints
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.solvers import chosen_kernel_ridge, nearest_neighbour, score_solver
from gpicl_jax.tasks import TaskDistribution
from gpicl_jax.training.state import init_state, num_params

# The reference solvers refit at every position: they see the first of the meta-test's episodes only.
_SOLVER_EPISODES = 128
_CHOICE_EPISODES = 64
_TABLE_POSITIONS = (0, 1, 2, 5, 10, 20, 50)


@dataclasses.dataclass(frozen=True)
class MetaTest:
    """Scores by (kind of task, solver), e.g. ("unseen_tasks", "transformer"), and all their curves as tidy rows."""

    learner: str
    num_classes: int
    scores: dict[tuple[str, str], Scores]
    curves: pd.DataFrame


def load_params(folder: RunFolder, config: Config, which: str) -> tuple[Any, int]:
    """Parameters and step of a run's `latest` or `best` checkpoint.

    Raises:
      UserError: no checkpoint is there, or it cannot be read.
    """
    missing = UserError(f"no checkpoint in {folder.path}; train the run first: gpicl train CONFIG --run-dir DIR --resume")
    if not folder.checkpoints.is_dir():
        raise missing
    with Checkpoints(folder.checkpoints) as checkpoints:
        step = checkpoints.best_step if which == "best" else checkpoints.latest_step
        if step is None:
            raise missing
        learner = make_learner(config, make_tasks(config, "train").dataset)
        like = init_state(learner, make_optimizer(config), hyper_from(config))
        return checkpoints.load(step, like).params, step


def meta_test(config: Config, params: Any, evaluator: Evaluator | None = None) -> MetaTest:
    """Scores the learner on every kind of task, and the reference solvers on unseen tasks.

    Args:
      config: of the run; `[eval]` says how many episodes.
      params: meta-parameters of its learner.
      evaluator: one whose compiled program can be used again.
    """
    settings, name = config.eval, config.model.name
    train, test = make_tasks(config, "train"), make_tasks(config, "test")
    evaluator = evaluator or Evaluator(make_learner(config, test.dataset))
    num_tasks = settings.episodes // settings.sequences_per_task
    keys = unseen_episode_keys(settings.seed, "test", num_tasks, settings.sequences_per_task)
    scores = {}
    if config.tasks.num_tasks != INFINITE:
        seen = seen_episode_keys(hyper_from(config), settings.seed, min(config.tasks.num_tasks, num_tasks), settings.episodes)
        scores["seen_tasks", name] = evaluator(params, test, seen, config.tasks.permute_labels_prob)
    scores["unseen_tasks", name] = evaluator(params, test, keys)
    scores["unseen_tasks_train_images", name] = evaluator(params, train, keys)
    scores["identity_tasks", name] = evaluator(params, dataclasses.replace(test, identity=True), keys)
    for solver, each in _reference_solvers(config, test, keys).items():
        scores["unseen_tasks", solver] = each
    curves = [
        learning_curve(each, dataset=config.data.train, tasks=kind, solver=solver, seed=config.train.seed)
        for (kind, solver), each in scores.items()
    ]
    return MetaTest(name, test.dataset.num_classes, scores, pd.concat(curves, ignore_index=True))


def _reference_solvers(config: Config, test: TaskDistribution, keys: EpisodeKeys) -> dict[str, Scores]:
    sequences = config.eval.sequences_per_task
    first = max(2, _SOLVER_EPISODES // sequences)
    part = EpisodeKeys(keys.task_T[:first], keys.sequence_TS[:first])
    choice = unseen_episode_keys(config.eval.seed, "validation", max(2, _CHOICE_EPISODES // sequences), sequences)
    ridge = chosen_kernel_ridge(make_tasks(config, "validation"), choice)
    return {
        "1-NN": score_solver(nearest_neighbour, test, part),
        "kernel ridge": score_solver(ridge, test, part),
    }


def write_report(folder: RunFolder, result: MetaTest, params: Any, step: int, total_seconds: float | None) -> None:
    """Writes `learning_curves.csv`, `learning_curves.png` and `summary.json` into the run's folder."""
    figure = figures.learning_curves(result.curves, learner=result.learner, num_classes=result.num_classes)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    unseen = result.scores["unseen_tasks", result.learner]
    summary = {
        "steps": step,
        "train_seconds": max((record["seconds"] for record in read_metrics(folder.path)), default=0.0),
        "total_seconds": total_seconds,
        **{kind: _ends(result, kind) for kind in ("seen_tasks", "unseen_tasks", "unseen_tasks_train_images", "identity_tasks")},
        "episodes": unseen.episodes,
        "distinct_images": unseen.distinct_images,
        "num_params": num_params(params),
    }
    folder.write_text("learning_curves.csv", result.curves.to_csv(index=False))
    folder.write_bytes("learning_curves.png", image.getvalue())
    folder.write_json("summary.json", summary)


def _ends(result: MetaTest, kind: str) -> dict[str, float | None] | None:
    scores = result.scores.get((kind, result.learner))
    if scores is None:
        return None
    last, error = scores.last()
    return {"first": scores.first()[0], "last": last, "last_standard_error": None if math.isnan(error) else error}


def table(result: MetaTest) -> str:
    """The learning curve on unseen tasks as text, with the reference solvers beside it."""
    unseen = {solver: scores for (kind, solver), scores in result.scores.items() if kind == "unseen_tasks"}
    ours = unseen[result.learner]
    length = ours.accuracy_TSL.shape[-1]
    rows = {str(position): slice(position, position + 1) for position in _TABLE_POSITIONS if position < length}
    rows[f"last {length - last_rows(length).start}"] = last_rows(length)
    lines = [
        "accuracy on unseen tasks and held-out images, ± standard error over tasks",
        f"{'examples seen':<15}" + "".join(f"{solver:<17}" for solver in unseen),
    ]
    for name, positions in rows.items():
        cells = [scores.accuracy(positions) for scores in unseen.values()]
        shown = ["–" if math.isnan(mean) else f"{mean:.3f} ± {error:.3f}" for mean, error in cells]
        lines.append(f"{name:<15}" + "".join(f"{cell:<17}" for cell in shown))
    counts = ", ".join(f"{solver} {scores.episodes:,}" for solver, scores in unseen.items())
    return "\n".join([*lines, f"episodes: {counts}; {ours.distinct_images} different images"])
