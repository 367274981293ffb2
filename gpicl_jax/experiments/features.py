"""`gpicl experiment features`: learning in context in the feature space of a frozen network, which the user brings.

The paper's: a ResNet, meta-trained on MNIST's features, about 45% on CIFAR-10 (arXiv 2212.04458).
"""

from typing import NamedTuple

import pandas as pd

from gpicl_jax import figures
from gpicl_jax.config import load_config
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.trained import Member, ends, mean_and_deviation
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.sources.images import load

_SMOKE = ("--train.steps=40", "--train.chunk=20", "--train.validate_every=40", "--eval.episodes=256", "--model.width=8")


class Grid(NamedTuple):
    """Attributes:

    configs: folder of the config.
    overrides: settings that replace those of the config.
    datasets: .npz files with `features` and `labels`: the first is trained on, all are tested on.
    """

    configs: str
    overrides: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """One for each seed."""
    if not grid.datasets:
        raise UserError(
            "experiment features needs --datasets TRAIN.npz [OTHER.npz …], files with arrays 'features' and 'labels'"
        )
    train = grid.datasets[0]
    settings = (*grid.overrides, f"--data.train={train}", f"--data.features={load(train, 'train').num_features}")
    return [
        Cell(
            {"seed": seed},
            load_config(
                f"experiments/{grid.configs}/transformer", (*settings, "--tasks.num_tasks=2147483647", f"--train.seed={seed}")
            ),
        )
        for seed in range(seeds)
    ]


def score(trained: Member, grid: Grid) -> list[Row]:
    """Unseen tasks, test rows of every file."""
    return [ends(trained.unseen(dataset), tasks="unseen", dataset=dataset.split("/")[-1]) for dataset in grid.datasets]


def summary(frame: pd.DataFrame) -> str:
    """Accuracy of every file, and loss over the episode in nats; means over seeds ± standard deviation."""
    lines = ["| features | accuracy, first example | accuracy, last tenth | loss, nats | seeds |", "|---|---|---|---|---|"]
    for dataset, rows in frame.dropna(subset=["last"]).groupby("dataset", sort=False):
        found = (f"{rows['first'].mean():.3f}", mean_and_deviation(rows["last"]), mean_and_deviation(rows["loss"]))
        lines.append(f"| {dataset} | {' | '.join(found)} | {len(rows)} |")
    return "\n".join(lines)


EXPERIMENT = Experiment(
    name="features",
    about="learning in context in the feature space of a frozen network",
    scales={
        "smoke": Scale(1, 1, Grid("laptop", _SMOKE)),
        "laptop": Scale(3, 3, Grid("laptop")),
        "paper": Scale(3, 3, Grid("paper")),
    },
    axes=("seed",),
    cells=cells,
    score=score,
    figure=figures.features,
    summary=summary,
    datasets=lambda grid: grid.datasets,
    takes_datasets=True,
)
