"""`gpicl experiment equivariant`: the paper's table by a learner that has the symmetries of its tasks."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gpicl_jax import figures
from gpicl_jax.config import load_config
from gpicl_jax.evaluation import Scores
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.scaling import SMOKE
from gpicl_jax.experiments.trained import Member, mean_and_deviation
from gpicl_jax.learners.base import final_rows
from gpicl_jax.paper import paper_comparison

_THREE = '--data.train=["mnist", "fashion_mnist", "cifar10"]'
# What is meta-trained on, and at which image size: the settings that make it so.
CONDITIONS: dict[str, tuple[str, ...]] = {
    "mnist, 32×32×3": (),
    "mnist + fashion_mnist + cifar10, 32×32×3": (_THREE, "--tasks.feature_scales=0.8", "--tasks.clutter=1.0"),
    "mnist, 14×14×1": ("--data.size=14", "--data.channels=1"),
    "mnist, 8×8×1": ("--data.size=8", "--data.channels=1"),
    "digits, 8×8×1": ("--data.train=digits", "--data.size=8", "--data.channels=1"),
}


class Grid(NamedTuple):
    """Attributes:

    conditions: of `CONDITIONS`.
    datasets: to test on.
    overrides: settings that replace those of the config.
    """

    conditions: tuple[str, ...]
    datasets: tuple[str, ...]
    overrides: tuple[str, ...] = ()


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """All of them; the seeds of a condition share a program."""
    return [
        Cell(
            {"trained_on": condition, "seed": seed},
            load_config("experiments/laptop/equivariant", (*CONDITIONS[condition], *grid.overrides, f"--train.seed={seed}")),
        )
        for condition in grid.conditions
        for seed in range(seeds)
    ]


def score(trained: Member, grid: Grid) -> list[Row]:
    """A row for each dataset: the learner and the reference solvers on the same episodes; and kernel ridge's in pairs."""
    rows = []
    for dataset in grid.datasets:
        scores = trained.beside_solvers(dataset)
        learner = scores.pop("learner")
        row: dict[str, Any] = {"tasks": "unseen", "dataset": dataset, "first": learner.first()[0]} | _ends(learner)
        for solver, each in scores.items():
            row |= {f"{solver} {name}": value for name, value in _ends(each).items()}
        last = final_rows(trained.config.tasks.length)
        margin_T = (learner.accuracy_TSL - scores["kernel ridge"].accuracy_TSL)[:, :, last].mean(axis=(1, 2))
        row |= {"margin": margin_T.mean(), "margin_standard_error": margin_T.std(ddof=1) / len(margin_T) ** 0.5}
        rows.append(row | {"loss": float(np.nanmean(learner.loss_TSL)), "episodes": learner.episodes})
    return rows


def _ends(scores: Scores) -> Row:
    (last, error), (final, final_error) = scores.last(), scores.accuracy(slice(-1, None))
    return {"last": last, "last_standard_error": error, "last_row": final, "last_row_standard_error": final_error}


def summary(frame: pd.DataFrame) -> str:
    """Percent: means over seeds ± standard deviation, margins ± standard error over tasks; the paper's last position."""
    paper = paper_comparison()
    paper = paper[paper.source == "paper"].set_index(["method", "dataset"]).accuracy
    lines = ["| trained on | dataset | last 10% | last position | kernel ridge | margin, in pairs | paper's GPICL, VSML |"]
    lines.append("|---|---|---|---|---|---|---|")
    frame = frame.dropna(subset=["last"])
    for (condition, dataset), rows in frame.groupby(["trained_on", "dataset"], sort=False):
        theirs = [
            f"{100 * paper[method, dataset]:.1f}" if (method, dataset) in paper else "–" for method in ("transformer", "vsml")
        ]
        found = [mean_and_deviation(100 * rows[name]) for name in ("last", "last_row")]
        found.append(f"{100 * rows['kernel ridge last'].mean():.1f}")
        found.append(f"{100 * rows.margin.mean():+.1f} ± {100 * rows.margin_standard_error.mean():.1f}")
        lines.append(f"| {condition} | {dataset} | {' | '.join(found)} | {', '.join(theirs)} |")
    return "\n".join(lines)


_OF_THE_TABLE = tuple(name for name in CONDITIONS if name.startswith("mnist"))
_DATASETS = ("mnist", "fashion_mnist", "kmnist", "random", "cifar10")

EXPERIMENT = Experiment(
    name="equivariant",
    about="the paper's table by a learner that has the symmetries of its tasks",
    scales={
        "smoke": Scale(
            1, 1, Grid(("digits, 8×8×1",), ("digits", "random"), (*SMOKE, "--optimizer.warmup_steps=10", "--eval.episodes=64"))
        ),
        "laptop": Scale(3, 3, Grid(_OF_THE_TABLE, _DATASETS)),
        "paper": Scale(3, 3, Grid(_OF_THE_TABLE, _DATASETS, ("--tasks.tasks_per_step=64", "--train.steps=100000"))),
    },
    axes=("trained_on", "seed"),
    cells=cells,
    score=score,
    figure=figures.equivariant,
    summary=summary,
    datasets=lambda grid: grid.datasets,
)
