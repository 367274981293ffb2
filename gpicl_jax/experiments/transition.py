"""`gpicl experiment transition`: what an episode teaches, against the number of tasks (the paper's figure 4)."""

import functools
from typing import NamedTuple

import pandas as pd

from gpicl_jax import figures
from gpicl_jax.config import load_config
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.scaling import SMOKE
from gpicl_jax.experiments.trained import Member, ends
from gpicl_jax.paper import paper_transition


class Grid(NamedTuple):
    """Attributes:

    configs: folder of the configs.
    log2_tasks: numbers of tasks.
    other: a dataset of unseen tasks that meta-training never saw.
    overrides: settings that replace those of the config.
    learner: name of the config.
    """

    configs: str
    log2_tasks: tuple[float, ...]
    other: str
    overrides: tuple[str, ...]
    learner: str = "transformer"


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """All of them: they share one program, but for what is too much at once."""
    return [
        Cell(
            {"num_tasks": num_tasks, "seed": seed},
            load_config(
                f"experiments/{grid.configs}/{grid.learner}",
                (*grid.overrides, f"--tasks.num_tasks={num_tasks}", f"--train.seed={seed}"),
            ),
        )
        for seed in range(seeds)
        for num_tasks in (round(2**power) for power in grid.log2_tasks)
    ]


def score(trained: Member, grid: Grid) -> list[Row]:
    """Seen tasks, unseen tasks, unseen tasks of another dataset."""
    (dataset,) = trained.config.data.train
    return [
        ends(trained.seen(), tasks="seen", dataset=dataset),
        ends(trained.unseen(dataset), tasks="unseen", dataset=dataset),
        ends(trained.unseen(grid.other), tasks="unseen", dataset=grid.other),
    ]


def summary(frame: pd.DataFrame) -> str:
    """Seeds on each side: those that gain more than half of the best mean gain of an episode of unseen tasks."""
    lines = ["| tasks | seen: gain | unseen: gain | unseen, other dataset: gain | seeds above half of the best gain |"]
    lines.append("|---|---|---|---|---|")
    frame = frame.dropna(subset=["last"]).assign(gain=lambda rows: rows["last"] - rows["first"])
    trained_on = frame[frame.tasks == "seen"].dataset.iloc[0]
    kinds = [
        ("seen", trained_on),
        ("unseen", trained_on),
        ("unseen", next(d for d in frame.dataset.unique() if d != trained_on)),
    ]
    by_kind = [frame[(frame.tasks == tasks) & (frame.dataset == dataset)] for tasks, dataset in kinds]
    half = by_kind[1].groupby("num_tasks").gain.mean().max() / 2
    for num_tasks in sorted(frame.num_tasks.unique()):
        gains = [rows[rows.num_tasks == num_tasks].gain for rows in by_kind]
        told = [f"{gain.mean():.3f} ({gain.min():.3f}–{gain.max():.3f})" for gain in gains]
        lines.append(f"| {num_tasks} | {' | '.join(told)} | {(gains[1] > half).sum()} of {len(gains[1])} |")
    return "\n".join(lines)


_LAPTOP = ("--model.width=16", "--tasks.permute_labels_prob=0.0")  # labels as in the paper's own curve (inferred)

EXPERIMENT = Experiment(
    name="transition",
    about="accuracy gained within an episode against the number of tasks",
    scales={
        "smoke": Scale(2, 2, Grid("laptop", (0, 10), "random", (*SMOKE, "--model.width=8"))),
        "laptop": Scale(8, 14, Grid("laptop", (2, 6, 6.5, 7, 7.5, 8, 12), "fashion_mnist", _LAPTOP)),
        "paper": Scale(8, 26, Grid("paper", tuple(range(26)), "fashion_mnist", ("--tasks.permute_labels_prob=0.0",))),
    },
    axes=("num_tasks", "seed"),
    cells=cells,
    score=score,
    summary=summary,
    figure=functools.partial(figures.transition, paper=paper_transition()),
    datasets=lambda grid: (grid.other,),
)
