"""`gpicl experiment symmetries`: what each symmetry of the equivariant Transformer is worth, each taken away alone."""

from typing import NamedTuple

import pandas as pd

from gpicl_jax import figures
from gpicl_jax.config import load_config
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.scaling import SMOKE
from gpicl_jax.experiments.trained import Member, ends, mean_and_deviation

MODELS = (
    "equivariant_transformer",
    "equivariant_without_rotations",
    "equivariant_without_label_permutations",
    "equivariant_without_context_permutations",
)
# An example of one stream gets a width with which it costs about as much as ten streams.
_WIDER = {"equivariant_without_label_permutations": ("--model.width=72", "--model.head_size=24")}

_TASKS_PER_STEP = 20


class Grid(NamedTuple):
    """Attributes:

    episodes: of meta-training, each with a schedule of its own.
    datasets: to test on.
    overrides: settings that replace those of the config.
    """

    episodes: tuple[int, ...]
    datasets: tuple[str, ...]
    overrides: tuple[str, ...]


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """All of them; the seeds of a model and a number of episodes share a program."""
    made = []
    for name in MODELS:
        for episodes in grid.episodes:
            for seed in range(seeds):
                steps = episodes // _TASKS_PER_STEP
                overrides = (*grid.overrides, f"--model.name={name}", *_WIDER.get(name, ()), f"--train.seed={seed}")
                overrides += (f"--train.steps={steps}", f"--train.validate_every={steps}")
                config = load_config("experiments/laptop/equivariant", overrides)
                made.append(Cell({"model": name, "train_episodes": episodes, "seed": seed}, config))
    return made


def score(trained: Member, grid: Grid) -> list[Row]:
    """A row for each dataset, unseen tasks."""
    return [ends(trained.unseen(dataset), tasks="unseen", dataset=dataset) for dataset in grid.datasets]


def summary(frame: pd.DataFrame) -> str:
    """Accuracy over the last tenth, mean over seeds ± standard deviation, and what it lacks to the equivariant one."""
    lines = [
        "| model | episodes | dataset | last 10% | loss (nats) | against the equivariant one |",
        "|---|---|---|---|---|---|",
    ]
    frame = frame.dropna(subset=["last"])
    whole = frame[frame.model == MODELS[0]].groupby(["train_episodes", "dataset"])["last"].mean()
    for (model, episodes, dataset), rows in frame.groupby(["model", "train_episodes", "dataset"], sort=False):
        lacks = rows["last"].mean() - whole.get((episodes, dataset), float("nan"))
        found = f"{mean_and_deviation(rows['last'])} | {rows.loss.mean():.3f} | {lacks:+.3f}"
        lines.append(f"| {model} | {episodes:,} | {dataset} | {found} |")
    return "\n".join(lines)


SMALL = (
    *("--data.size=8", "--data.channels=1", "--tasks.entries=normal", "--tasks.feature_scales=0", "--tasks.clutter=0"),
    *(f"--tasks.tasks_per_step={_TASKS_PER_STEP}", "--train.chunk=50", "--eval.episodes=1024"),
    *("--model.width=24", "--model.num_layers=4", "--model.head_size=6"),
)
_SHORT = tuple(each for each in SMOKE if not each.startswith("--train.steps"))

EXPERIMENT = Experiment(
    name="symmetries",
    about="what each symmetry of the equivariant Transformer is worth",
    scales={
        "smoke": Scale(1, 1, Grid((800,), ("digits",), (*SMALL, *_SHORT, "--optimizer.warmup_steps=10"))),
        "laptop": Scale(3, 3, Grid((2000, 15000), ("mnist", "fashion_mnist"), SMALL)),
        "paper": Scale(5, 5, Grid((2000, 15000, 200000), ("mnist", "fashion_mnist", "kmnist"), SMALL)),
    },
    axes=("model", "train_episodes", "seed"),
    cells=cells,
    score=score,
    figure=figures.symmetries,
    summary=summary,
    datasets=lambda grid: grid.datasets,
)
