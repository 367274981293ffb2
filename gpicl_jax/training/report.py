"""What a meta-test leaves: files in the run's folder, and a table for the eye."""

import io
import math
from typing import Any

from gpicl_jax import figures
from gpicl_jax.evaluation import Scores
from gpicl_jax.learners.base import FIRST_POSITIONS, final_rows
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.training.meta_test import MetaTest
from gpicl_jax.training.step import num_params


def write_report(
    folder: RunFolder,
    result: MetaTest,
    params: Any,
    *,
    step: int,
    checkpoint: str,
    total_seconds: float | None,
    stopped_early: bool,
) -> None:
    """Writes `learning_curves.csv`, `learning_curves.png` and `summary.json` into the run's folder."""
    chance = {dataset: 1 / test.num_labels for dataset, test in result.tests.items()}
    figure = figures.learning_curves(result.curves, learner=result.learner, train=result.train, chance=chance)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    summary = {
        "steps": step,
        "stopped_early": stopped_early,
        "checkpoint": checkpoint,
        "train_seconds": max((record["seconds"] for record in read_metrics(folder.path)), default=0.0),
        "total_seconds": total_seconds,
        "num_params": num_params(params),
        "reference_solvers": result.settings,
        "datasets": {dataset: _summary(result, dataset) for dataset in result.tests},
    }
    folder.write_text("learning_curves.csv", result.curves.to_csv(index=False))
    folder.write_bytes("learning_curves.png", image.getvalue())
    folder.write_json("summary.json", summary)


def _summary(result: MetaTest, dataset: str) -> dict[str, Any]:
    summary: dict[str, Any] = {"standardised_by": result.tests[dataset].source.statistics}
    for (of, kind, solver), scores in result.scores.items():
        if of == dataset:
            counts = {"episodes": scores.episodes, "distinct_images": result.images[dataset, kind]}
            summary.setdefault(kind, counts)[solver] = _ends(scores)
    return summary


def _ends(scores: Scores) -> dict[str, float | None]:
    (first, _), (last, error) = scores.first(), scores.last()
    ends = {"first": first, "last": last, "last_standard_error": error}
    return {name: None if math.isnan(value) else value for name, value in ends.items()}


def table(result: MetaTest) -> str:
    """Accuracy as text: the learning curve of one dataset, or the ends of several; reference solvers beside the learner."""
    lines = _one_table(result) if len(result.tests) == 1 else _many_table(result)
    for dataset, test in result.tests.items():
        if test.source.statistics not in ("train", ""):
            split = test.source.statistics
            lines.append(f"{dataset}: pixels standardised by its {split} split, for want of a training split")
    return "\n".join(lines)


def _one_table(result: MetaTest) -> list[str]:
    (dataset,) = result.tests
    solvers = [solver for _, kind, solver in result.scores if kind == "unseen_tasks"]
    test = result.tests[dataset]
    final = final_rows(test.length, test.episode_context)
    rows = {str(position): slice(position, position + 1) for position in FIRST_POSITIONS if position < test.length}
    if test.num_context:
        rows = {str(test.num_context): final}
    else:
        rows[f"last {test.length - final.start}"] = final
    lines = [
        f"{dataset}: accuracy on unseen tasks and held-out images, ± standard error over tasks",
        _row("examples seen", solvers, solvers),
    ]
    for name, positions in rows.items():
        cells = [_cell(result.scores[dataset, "unseen_tasks", solver].accuracy(positions)) for solver in solvers]
        lines.append(_row(name, cells, solvers))
    episodes = result.scores[dataset, "unseen_tasks", result.learner].episodes
    return [*lines, f"{episodes:,} episodes, {result.images[dataset, 'unseen_tasks']:,} different images"]


def _many_table(result: MetaTest) -> list[str]:
    solvers = list(dict.fromkeys(solver for _, kind, solver in result.scores if kind == "unseen_tasks"))
    lines = []
    titles = {"unseen_tasks": "unseen tasks", "identity_tasks": "images without projection"}
    for kind, title in ((kind, title) for kind, title in titles.items() if any(kind == each for _, each, _ in result.scores)):
        lines += [
            f"accuracy on {title}, last 10% of the episode, ± standard error over tasks",
            _row("", [*solvers, "images"], solvers),
        ]
        for dataset in result.tests:
            cells = [_cell(result.scores[dataset, kind, solver].last()) for solver in solvers]
            lines.append(_row(dataset, [*cells, f"{result.images[dataset, kind]:,}"], solvers))
    episodes = next(iter(result.scores.values())).episodes
    return [*lines, f"{episodes:,} episodes each; 'images' counts different ones"]


def _row(name: str, cells: list[str], solvers: list[str]) -> str:
    """A line of a table whose columns are as wide as the names of the solvers need."""
    cells = [f"{cell:<{max(16, len(solver) + 2)}}" for cell, solver in zip(cells, [*solvers, ""], strict=False)]
    return (f"{name:<16}" + "".join(cells)).rstrip()


def _cell(mean_and_error: tuple[float, float]) -> str:
    mean, error = mean_and_error
    return "–" if math.isnan(mean) else f"{mean:.3f} ± {error:.3f}"
