"""The report of a meta-test: files in the run's folder, and a table of text."""

import math
from typing import Any

from gpicl_jax import figures
from gpicl_jax.figures.style import write_png
from gpicl_jax.learners.base import FIRST_POSITIONS, final_rows
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.training.meta_test import MetaTest
from gpicl_jax.training.step import num_params


def write_report(folder: RunFolder, result: MetaTest, params: Any, **about: Any) -> None:
    """Writes `learning_curves.csv`, `learning_curves.png` and `summary.json`, which begins with the values of `about`."""
    chance = {dataset: 1 / test.num_labels for dataset, test in result.tests.items()}
    figure = figures.learning_curves(result.curves, learner=result.learner, train=result.train, chance=chance)
    summary = about | {
        "train_seconds": max((record["seconds"] for record in read_metrics(folder.path)), default=0.0),
        "num_params": num_params(params),
        "reference_solvers": result.settings,
        "datasets": {dataset: {"standardised_by": test.source.statistics} for dataset, test in result.tests.items()},
    }
    for (dataset, kind, solver), scores in result.scores.items():
        counts = {"episodes": scores.episodes, "distinct_images": result.images[dataset, kind]}
        (first, _), (last, error), of_images = scores.first(), scores.last(), scores.image_error(scores.final)
        ends = {"first": first, "last": last, "last_standard_error": error, "last_image_standard_error": of_images}
        of_kind = summary["datasets"][dataset].setdefault(kind, counts)
        of_kind[solver] = {name: None if math.isnan(value) else value for name, value in ends.items()}
    folder.write_text("learning_curves.csv", result.curves.to_csv(index=False))
    write_png(folder.path / "learning_curves.png", lambda: figure)
    folder.write_json("summary.json", summary)


def table(result: MetaTest) -> str:
    """Returns accuracy as text: the learning curve of one dataset, or the ends of several, with reference solvers."""
    lines = _curve_of(*result.tests, result) if len(result.tests) == 1 else _ends(result)
    for dataset, test in result.tests.items():
        if test.source.statistics not in ("train", ""):
            split = test.source.statistics
            lines.append(f"{dataset}: pixels standardised by its {split} split, for want of a training split")
    return "\n".join(lines)


def _curve_of(dataset: str, result: MetaTest) -> list[str]:
    test = result.tests[dataset]
    final = final_rows(test.length, test.episode_context)
    examples = "held-out images" if test.source.has_splits else "fresh examples"
    rows = {str(position): slice(position, position + 1) for position in FIRST_POSITIONS if position < test.length}
    rows = {str(test.num_context): final} if test.num_context else rows | {f"last {test.length - final.start}": final}
    scores = {solver: each for (_, kind, solver), each in result.scores.items() if kind == "unseen_tasks"}
    cells = [[name, *(_cell(each.accuracy(positions)) for each in scores.values())] for name, positions in rows.items()]
    return [
        f"{dataset}: accuracy on unseen tasks and {examples}, ± standard error over tasks",
        *_rows(["examples seen", *scores], *cells),
        f"{scores[result.learner].episodes:,} episodes, {result.images[dataset, 'unseen_tasks']:,} different images",
        f"{scores[result.learner].image_error(final):.3f} is the standard error of the last line over images",
    ]


def _ends(result: MetaTest) -> list[str]:
    solvers = list(dict.fromkeys(solver for _, kind, solver in result.scores if kind == "unseen_tasks"))
    lines, kinds = [], {kind for _, kind, _ in result.scores}
    for kind, title in {"unseen_tasks": "unseen tasks", "identity_tasks": "images without projection"}.items():
        if kind in kinds:
            cells = [
                [dataset, *(_cell(result.scores[dataset, kind, solver].last()) for solver in solvers), f"{images:,}"]
                for (dataset, of), images in result.images.items()
                if of == kind
            ]
            lines.append(f"accuracy on {title}, last 10% of the episode, ± standard error over tasks")
            lines += _rows(["", *solvers, "images"], *cells)
    episodes = next(iter(result.scores.values())).episodes
    return [*lines, f"{episodes:,} episodes each; 'images' counts different ones"]


def _rows(*rows: list[str]) -> list[str]:
    """Returns the lines of a table. The names in the first row set the widths of the columns."""
    widths = [max(16, len(name) + 2) for name in rows[0]]
    return ["".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(mean_and_error: tuple[float, float]) -> str:
    mean, error = mean_and_error
    return "–" if math.isnan(mean) else f"{mean:.3f} ± {error:.3f}"
