"""`gpicl experiment sample-efficiency`: meta-training episodes until validation tasks reach an accuracy."""

from typing import NamedTuple

import pandas as pd

from gpicl_jax import figures
from gpicl_jax.config import load_config
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.scaling import SMOKE
from gpicl_jax.experiments.trained import Member

_MNIST = ("--data.train=mnist", "--data.size=8", "--data.channels=1")
_TRANSFORMER = ("--model.width=128", "--model.num_layers=3", "--model.num_heads=4")
# Of each learner: its config, and the settings that replace it.
LEARNERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "equivariant": (
        "experiments/laptop/equivariant",
        (*_MNIST, "--tasks.entries=normal", "--tasks.clutter=0", "--tasks.feature_scales=0", "--train.chunk=50"),
    ),
    "Transformer": ("digits_transformer", (*_MNIST, *_TRANSFORMER)),
    "Transformer, paper's tokens": (
        "digits_transformer",
        (*_MNIST, *_TRANSFORMER, "--model.smear_keys=false", "--model.label_scale=1"),
    ),
}


class Grid(NamedTuple):
    """Attributes:

    episodes: of meta-training, by learner.
    every: episodes between validations.
    accuracies: to reach.
    overrides: settings that replace those of the configs.
    """

    episodes: dict[str, int]
    every: int
    accuracies: tuple[float, ...]
    overrides: tuple[str, ...] = ()


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """All of them; the seeds of a learner share a program."""
    made = []
    for learner, episodes in grid.episodes.items():
        name, settings = LEARNERS[learner]
        a_step = load_config(name, (*settings, *grid.overrides)).tasks.tasks_per_step
        every = f"--train.validate_every={grid.every // a_step}"
        settings = (*settings, *grid.overrides, f"--train.steps={episodes // a_step}", every)
        made += [
            Cell({"learner": learner, "seed": seed}, load_config(name, (*settings, f"--train.seed={seed}")))
            for seed in range(seeds)
        ]
    return made


def score(trained: Member, grid: Grid) -> list[Row]:
    """A row for each accuracy: the episodes until a validation reached it over its last tenth; NaN where none did."""
    tasks, found = trained.config.tasks, [record for record in trained.records if record.get("validation_last") is not None]
    a_step = tasks.tasks_per_step * tasks.sequences_per_task
    rows = []
    for accuracy in grid.accuracies:
        reached = [record["step"] for record in found if record["validation_last"] >= accuracy]
        row = {"tasks": "validation", "dataset": trained.config.data.train[0], "accuracy": accuracy}
        row |= {"needed": a_step * reached[0] if reached else float("nan"), "trained": a_step * trained.config.train.steps}
        rows.append(row | {"last": found[-1]["validation_last"]})
    return rows


def summary(frame: pd.DataFrame) -> str:
    """Episodes of each seed, > those of the whole run where it never got there."""
    frame = frame.dropna(subset=["last"])
    accuracies = sorted(frame.accuracy.unique())
    lines = [f"| learner | {' | '.join(f'{each:.2f}' for each in accuracies)} | last validation |"]
    lines.append("|---|" + "---|" * (len(accuracies) + 1))
    for learner, rows in frame.groupby("learner", sort=False):
        told = []
        for accuracy in accuracies:
            seeds = rows[rows.accuracy == accuracy]
            needed = zip(seeds.needed, seeds.trained, strict=True)
            told.append(", ".join(f"> {most:,.0f}" if pd.isna(each) else f"{each:,.0f}" for each, most in needed))
        last = ", ".join(f"{each:.3f}" for each in rows[rows.accuracy == accuracies[0]]["last"])
        lines.append(f"| {learner} | {' | '.join(told)} | {last} |")
    return "\n".join(lines)


_ACCURACIES = (0.70, 0.76, 0.80)
_EPISODES = {"equivariant": 96_000, "Transformer": 166_400, "Transformer, paper's tokens": 166_400}

EXPERIMENT = Experiment(
    name="sample-efficiency",
    about="meta-training episodes until validation tasks reach an accuracy",
    scales={
        "smoke": Scale(
            1,
            1,
            Grid(
                {"equivariant": 640, "Transformer": 1280},
                640,
                (0.5, 0.8),
                (*(each for each in SMOKE if "steps" not in each and "every" not in each), "--optimizer.warmup_steps=10"),
            ),
        ),
        "laptop": Scale(1, 1, Grid(_EPISODES, 1600, _ACCURACIES)),
        "paper": Scale(3, 3, Grid(dict.fromkeys(LEARNERS, 25_600_000), 160_000, _ACCURACIES)),
    },
    axes=("learner", "seed"),
    cells=cells,
    score=score,
    figure=figures.sample_efficiency,
    summary=summary,
    datasets=lambda grid: (),
)
