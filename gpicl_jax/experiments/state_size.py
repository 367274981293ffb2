"""`gpicl experiment state-size`: accuracy on unseen tasks against the size of the state and the number of parameters."""

from typing import NamedTuple

import pandas as pd

from gpicl_jax import figures
from gpicl_jax.config import load_config
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.scaling import SMOKE
from gpicl_jax.experiments.trained import Member, ends, mean_and_deviation
from gpicl_jax.training.step import num_params

# Row of the comparison, whose config it takes: what makes each of its sizes, in the `[model]` section.
SIZES: dict[str, tuple[dict[str, int], ...]] = {
    "transformer": (
        {"num_heads": 1, "head_size": 4},
        {"num_heads": 1, "head_size": 16},
        {"num_heads": 2, "head_size": 64},
    ),
    "lstm": ({"width": 32}, {"width": 128}, {"width": 512}),
    "outer_product_lstm": (
        {"width": 64, "num_heads": 1, "head_size": 8},
        {"width": 64, "num_heads": 2, "head_size": 32},
        {"width": 64, "num_heads": 1, "head_size": 96},
    ),
    "fast_weights": ({"memory_size": 4}, {"memory_size": 16}),
    "vsml_without_symmetries": ({"grid_size": 2}, {"grid_size": 4}),
}


class Grid(NamedTuple):
    """Attributes:

    configs: folder of the comparison's configs.
    sizes: as `SIZES`.
    overrides: settings that replace those of the configs.
    """

    configs: str
    sizes: dict[str, tuple[dict[str, int], ...]]
    overrides: tuple[str, ...]


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """All of them; the seeds of one size share a program."""
    return [
        Cell(
            {"learner": learner, "size": ", ".join(f"{name} {value}" for name, value in size.items()), "seed": seed},
            load_config(
                f"comparison/{grid.configs}/{learner}",
                (
                    "--tasks.num_tasks=2147483647",
                    *grid.overrides,
                    *(f"--model.{name}={value}" for name, value in size.items()),
                    f"--train.seed={seed}",
                ),
            ),
        )
        for learner, sizes in grid.sizes.items()
        for size in sizes
        for seed in range(seeds)
    ]


def score(trained: Member, grid: Grid) -> list[Row]:
    """Unseen tasks, test images; both sizes."""
    config = trained.config
    sizes = {
        "state_size": trained.test.learner.state_size(config.tasks.length),
        "num_params": num_params(trained.params),
    }
    return [sizes | ends(trained.unseen(config.data.train[0]), tasks="unseen")]


def summary(frame: pd.DataFrame) -> str:
    """Both sizes and the accuracy, mean over seeds ± standard deviation; rank correlations of the means over three or more."""
    lines = ["| learner | size | state | parameters | accuracy, last tenth | seeds |", "|---|---|---|---|---|---|"]
    frame = frame.dropna(subset=["last"])
    keys = ["learner", "size", "state_size", "num_params"]
    for (learner, size, state_size, params), rows in frame.groupby(keys, sort=False):
        told = f"{mean_and_deviation(rows['last'])} | {len(rows)}"
        lines.append(f"| {learner} | {size} | {state_size:,.0f} | {params:,.0f} | {told} |")
    means = frame.groupby(keys)["last"].agg(["mean"]).reset_index()
    if len(means) < 3:
        return "\n".join(lines)
    ranks = means[["state_size", "num_params", "mean"]].rank().corr()["mean"]
    lines.append(
        f"\nRank correlation of the accuracy over {len(means)} sizes: with the state {ranks.state_size:.2f}, "
        f"with the number of parameters {ranks.num_params:.2f}."
    )
    return "\n".join(lines)


_STEPS = ("--train.steps=2000", "--train.chunk=50", "--train.validate_every=500", "--tasks.length=50", "--eval.episodes=1024")

EXPERIMENT = Experiment(
    name="state-size",
    about="accuracy on unseen tasks against state size and number of parameters",
    scales={
        "smoke": Scale(1, 4, Grid("laptop", {name: SIZES[name][:1] for name in ("transformer", "lstm")}, SMOKE)),
        "laptop": Scale(2, 2, Grid("laptop", SIZES, _STEPS)),
        "paper": Scale(3, 3, Grid("paper", SIZES, ())),
    },
    axes=("learner", "size", "seed"),
    cells=cells,
    score=score,
    figure=figures.state_size,
    summary=summary,
    datasets=lambda grid: (),
)
