"""The meta-test of a run: test images, tasks that training never drew, reference solvers beside the learner."""

import dataclasses
import io
import math
from typing import Any

import jax
import pandas as pd

from gpicl_jax import figures
from gpicl_jax.config import INFINITE, Config, UserError, hyper_from
from gpicl_jax.evaluation import (
    Evaluator,
    Scores,
    count_images,
    last_rows,
    learning_curve,
    seen_episode_keys,
    unseen_episode_keys,
)
from gpicl_jax.factory import make_learner, make_optimizer, make_tasks
from gpicl_jax.runs.checkpoint import Checkpoints
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.solvers import Solver, chosen_kernel_ridge, nearest_neighbour, score_solvers
from gpicl_jax.training.state import init_state, num_params

# The reference solvers refit at every position: they see the first of the meta-test's episodes only.
_SOLVER_EPISODES = 128
_CHOICE_EPISODES = 64
_TABLE_POSITIONS = (0, 1, 2, 5, 10, 20, 50)


@dataclasses.dataclass(frozen=True)
class MetaTest:
    """The outcome of a meta-test.

    Attributes:
      learner: name of the learner.
      num_classes: C.
      scores: by (kind of task, solver), e.g. ("unseen_tasks", "transformer"). The reference solvers see the first
        episodes only: S' sequences of T' tasks.
      curves: all learning curves as tidy rows.
      distinct_images: how many different test images the unseen tasks show.
      settings: what the reference solvers were set to, by validation tasks.
    """

    learner: str
    num_classes: int
    scores: dict[tuple[str, str], Scores]
    curves: pd.DataFrame
    distinct_images: int
    settings: dict[str, dict[str, float]]


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
        like = jax.eval_shape(lambda: init_state(learner, make_optimizer(config), hyper_from(config)))
        return checkpoints.load(step, like).params, step


def meta_test(config: Config, params: Any, evaluator: Evaluator | None = None) -> MetaTest:
    """Scores the learner on every kind of task, and the reference solvers on unseen tasks.

    Seen and unseen tasks permute their labels as training tasks do, with `tasks.permute_labels_prob`; where that is
    below 1, `unseen_tasks_permuted` are unseen tasks that always do. Identity tasks always do.

    Args:
      config: of the run; `[eval]` says how many episodes.
      params: meta-parameters of its learner.
      evaluator: one whose compiled program can be used again.
    """
    settings, name, permute = config.eval, config.model.name, config.tasks.permute_labels_prob
    train, test = make_tasks(config, "train"), make_tasks(config, "test")
    evaluator = evaluator or Evaluator(make_learner(config, test.dataset))
    num_tasks = settings.episodes // settings.sequences_per_task
    keys = unseen_episode_keys(settings.seed, "test", num_tasks, settings.sequences_per_task)
    kinds = {
        "unseen_tasks": (test, keys, permute),
        "unseen_tasks_train_images": (train, keys, permute),
        "identity_tasks": (dataclasses.replace(test, identity=True), keys, 1.0),
    }
    if permute < 1:
        kinds["unseen_tasks_permuted"] = (test, keys, 1.0)
    if config.tasks.num_tasks != INFINITE:
        num_seen = min(config.tasks.num_tasks, num_tasks)
        seen = seen_episode_keys(hyper_from(config), settings.seed, num_seen, settings.episodes)
        kinds["seen_tasks"] = (test, seen, permute)
    scores = {(kind, name): evaluator(params, *arguments) for kind, arguments in kinds.items()}
    images = {kind: count_images(tasks, each) for kind, (tasks, each, _) in kinds.items()}
    solvers = _reference_solvers(config)
    part = keys.first(_SOLVER_EPISODES, 1)  # one sequence a task: the most tasks for the money
    for solver, each in score_solvers(solvers, test, part, permute).items():
        scores["unseen_tasks", solver] = each
    curves = [
        learning_curve(
            each, dataset=config.data.train, tasks=kind, solver=solver, distinct_images=images[kind], seed=config.train.seed
        )
        for (kind, solver), each in scores.items()
    ]
    return MetaTest(
        learner=name,
        num_classes=test.dataset.num_classes,
        scores=scores,
        curves=pd.concat(curves, ignore_index=True),
        distinct_images=images["unseen_tasks"],
        settings={"kernel ridge": dataclasses.asdict(solvers["kernel ridge"])},
    )


def _reference_solvers(config: Config) -> dict[str, Solver]:
    choice = unseen_episode_keys(config.eval.seed, "validation", _CHOICE_EPISODES, 1)
    ridge = chosen_kernel_ridge(make_tasks(config, "validation"), choice)
    return {"1-NN": nearest_neighbour, "kernel ridge": ridge}


def write_report(
    folder: RunFolder, result: MetaTest, params: Any, *, step: int, checkpoint: str, total_seconds: float | None
) -> None:
    """Writes `learning_curves.csv`, `learning_curves.png` and `summary.json` into the run's folder."""
    figure = figures.learning_curves(result.curves, learner=result.learner, num_classes=result.num_classes)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    unseen = result.scores["unseen_tasks", result.learner]
    summary = {
        "steps": step,
        "checkpoint": checkpoint,
        "train_seconds": max((record["seconds"] for record in read_metrics(folder.path)), default=0.0),
        "total_seconds": total_seconds,
        **{kind: _ends(result, kind) for kind in ("seen_tasks", "unseen_tasks", "unseen_tasks_train_images", "identity_tasks")},
        "episodes": unseen.episodes,
        "distinct_images": result.distinct_images,
        "num_params": num_params(params),
        "reference_solvers": {
            solver: {"last": scores.last()[0], "episodes": scores.episodes, **result.settings.get(solver, {})}
            for (_, solver), scores in result.scores.items()
            if solver != result.learner
        },
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
    for num_tasks, sequences in {scores.accuracy_TSL.shape[:2] for scores in unseen.values()} - {ours.accuracy_TSL.shape[:2]}:
        mean, error = ours.of(num_tasks, sequences).last()
        lines.append(f"(the {result.learner} on the solvers' own episodes, last 10%: {mean:.3f} ± {error:.3f})")
    counts = ", ".join(f"{solver} {scores.episodes:,}" for solver, scores in unseen.items())
    return "\n".join([*lines, f"episodes: {counts}; {result.distinct_images} different images"])
