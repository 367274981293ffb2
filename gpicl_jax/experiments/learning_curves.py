"""`gpicl experiment learning-curves`: accuracy at each position, meta-trained on one dataset, tested on another (figure 4 of
the paper); for `context_query` also contexts longer than any of training."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from gpicl_jax import figures
from gpicl_jax.config import load_config
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.scaling import SMOKE
from gpicl_jax.experiments.trained import Member, mean_and_deviation

_LONGER = 4  # times the trained length


class Grid(NamedTuple):
    """Attributes:

    configs: folder of the configs.
    datasets: each is trained on, and all are tested on.
    overrides: settings that replace those of the configs.
    """

    configs: str
    datasets: tuple[str, ...]
    overrides: tuple[str, ...] = ()


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """All of them; the seeds of a learner and a dataset share a program."""
    return [
        Cell(
            {"learner": learner, "trained_on": dataset, "seed": seed},
            load_config(
                f"experiments/{grid.configs}/{learner}",
                (*grid.overrides, "--tasks.num_tasks=2147483647", f"--data.train={dataset}", f"--train.seed={seed}"),
            ),
        )
        for learner in ("transformer", "context_query")
        for dataset in grid.datasets
        for seed in range(seeds)
    ]


def score(trained: Member, grid: Grid) -> list[Row]:
    """A row for each dataset and position."""
    length = trained.config.tasks.length
    lengths = (length, _LONGER * length) if trained.test.learner.cuts(length) else (length,)
    rows = []
    for dataset in grid.datasets:
        for each in lengths:
            scores = trained.unseen(dataset, length=each)
            for position in range(each):
                accuracy, error = scores.accuracy(slice(position, position + 1))
                if not np.isnan(accuracy):
                    about = {"dataset": dataset, "length": each, "position": position}
                    rows.append({**about, "accuracy": accuracy, "standard_error": error, "episodes": scores.episodes})
    return rows


def summary(frame: pd.DataFrame) -> str:
    """Accuracy at the last position of each length, mean over seeds ± standard deviation."""
    lines = ["| learner | meta-trained on | tested on | examples seen | accuracy at that position |", "|---|---|---|---|---|"]
    keys = ["learner", "trained_on", "dataset", "length"]
    for (learner, trained_on, dataset, length), rows in frame.groupby(keys, sort=False):
        last = rows[rows.position == length - 1].accuracy
        told = f"{mean_and_deviation(last)} ({len(last)} seed{'s' if len(last) > 1 else ''})"
        lines.append(f"| {learner} | {trained_on} | {dataset} | {length - 1:.0f} | {told} |")
    return "\n".join(lines)


EXPERIMENT = Experiment(
    name="learning-curves",
    about="accuracy at each position, trained on one dataset, tested on another",
    scales={
        "smoke": Scale(1, 4, Grid("laptop", ("digits", "random"), (*SMOKE, "--model.width=8"))),
        "laptop": Scale(4, 4, Grid("laptop", ("mnist", "fashion_mnist"))),
        "paper": Scale(8, 8, Grid("paper", ("mnist", "fashion_mnist"))),
    },
    axes=("learner", "trained_on", "seed"),
    cells=cells,
    score=score,
    figure=figures.learning_curves_of_seeds,
    summary=summary,
    datasets=lambda grid: grid.datasets,
)
