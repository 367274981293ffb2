"""`gpicl experiment context-size`: contexts as long as those of meta-training, and ten times as long."""

from typing import NamedTuple

import pandas as pd

from gpicl_jax import figures
from gpicl_jax.config import load_config
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.scaling import SMOKE
from gpicl_jax.experiments.symmetries import SMALL
from gpicl_jax.experiments.trained import Member, ends, mean_and_deviation


class Grid(NamedTuple):
    """Attributes:

    lengths: of the episodes of meta-training, whose contexts are of all sizes below.
    contexts: sizes to test.
    queries: of an episode, after its context.
    datasets: to test on.
    overrides: settings that replace those of the config.
    """

    lengths: tuple[int, ...]
    contexts: tuple[int, ...]
    queries: int
    datasets: tuple[str, ...]
    overrides: tuple[str, ...]


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """All of them; the seeds of a length share a program."""
    return [
        Cell(
            {"length": length, "seed": seed},
            load_config(
                "experiments/laptop/equivariant", (*grid.overrides, f"--tasks.length={length}", f"--train.seed={seed}")
            ),
        )
        for length in grid.lengths
        for seed in range(seeds)
    ]


def score(trained: Member, grid: Grid) -> list[Row]:
    """A row for each dataset and context; accuracy is that of all queries."""
    return [
        ends(
            trained.unseen(dataset, length=size + grid.queries, num_context=size), tasks="unseen", dataset=dataset, context=size
        )
        for dataset in grid.datasets
        for size in grid.contexts
    ]


def summary(frame: pd.DataFrame) -> str:
    """Accuracy of the queries, mean over seeds ± standard deviation."""
    frame = frame.dropna(subset=["last"])
    sizes = sorted(frame.context.unique())
    lines = [f"| episodes of | dataset | {' | '.join(f'{size:.0f}' for size in sizes)} |", "|---|---|" + "---|" * len(sizes)]
    for (length, dataset), rows in frame.groupby(["length", "dataset"], sort=False):
        found = [mean_and_deviation(rows[rows.context == size]["last"]) for size in sizes]
        lines.append(f"| {length:.0f} | {dataset} | {' | '.join(found)} |")
    return "\n".join(lines)


_SIZES = (20, 50, 100, 200, 500, 1000)
_LAPTOP = (*SMALL, "--train.steps=1500", "--train.validate_every=1500", "--eval.episodes=256")

EXPERIMENT = Experiment(
    name="context-size",
    about="contexts as long as those of meta-training, and ten times as long",
    scales={
        "smoke": Scale(1, 1, Grid((20,), (5, 50), 10, ("digits",), (*SMALL, *SMOKE, "--optimizer.warmup_steps=10"))),
        "laptop": Scale(3, 3, Grid((100,), _SIZES, 100, ("mnist", "fashion_mnist"), _LAPTOP)),
        "paper": Scale(3, 3, Grid((100, 400), _SIZES, 100, ("mnist", "fashion_mnist"), (*SMALL, "--train.steps=20000"))),
    },
    axes=("length", "seed"),
    cells=cells,
    score=score,
    figure=figures.context_size,
    summary=summary,
    datasets=lambda grid: grid.datasets,
)
