"""`gpicl experiment scaling`: model size × number of tasks, seen and unseen tasks (the paper's map, figure 3)."""

import functools
from typing import NamedTuple

from gpicl_jax import figures
from gpicl_jax.config import load_config
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.trained import Member, ends
from gpicl_jax.paper import paper_map


class Grid(NamedTuple):
    """Attributes:

    configs: folder of the configs.
    sizes: widths, by model.
    log2_tasks: numbers of tasks.
    permute: chances of a task to permute its labels, in training and at test.
    overrides: settings that replace those of the configs.
    """

    configs: str
    sizes: dict[str, tuple[int, ...]]
    log2_tasks: tuple[int, ...]
    permute: tuple[float, ...]
    overrides: tuple[str, ...] = ()


SMOKE = ("--data.train=digits", "--train.steps=40", "--train.chunk=20", "--train.validate_every=40", "--eval.episodes=256")
_POWERS = tuple(2**power for power in range(1, 11))


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """All of them; a column of the map, with its seeds, shares a program."""
    return [
        Cell(
            {"permute": permute, "model": model, "size": size, "num_tasks": 2**power, "seed": seed},
            load_config(
                f"experiments/{grid.configs}/{model}",
                (
                    *grid.overrides,
                    f"--model.width={size}",
                    f"--tasks.num_tasks={2**power}",
                    f"--tasks.permute_labels_prob={permute}",
                    f"--train.seed={seed}",
                ),
            ),
        )
        for permute in grid.permute
        for model, sizes in grid.sizes.items()
        for size in sizes
        for seed in range(seeds)
        for power in grid.log2_tasks
    ]


def score(trained: Member, grid: Grid) -> list[Row]:
    """Seen and unseen tasks, test images of the training set."""
    (dataset,) = trained.config.data.train
    return [ends(trained.seen(), tasks="seen"), ends(trained.unseen(dataset), tasks="unseen")]


EXPERIMENT = Experiment(
    name="scaling",
    about="model size × number of tasks, seen and unseen tasks",
    scales={
        "smoke": Scale(
            seeds=1,
            together=3,
            grid=Grid(
                "laptop",
                {"mlp": (4,), "transformer": (8,)},
                (0, 2, 10),
                (0.0,),
                (
                    "--data.train=digits",
                    "--train.steps=40",
                    "--train.chunk=20",
                    "--train.validate_every=40",
                    "--eval.episodes=256",
                ),
            ),
        ),
        "laptop": Scale(
            seeds=1,
            together=9,
            grid=Grid(
                "laptop",
                {"transformer": (4, 8, 16, 32, 64), "mlp": (4, 8, 16, 32, 64, 128, 256)},
                tuple(range(0, 17, 2)),
                (0.0, 1.0),
            ),
        ),
        "paper": Scale(
            seeds=1,
            together=26,
            grid=Grid("paper", {"transformer": _POWERS[:9], "mlp": _POWERS}, tuple(range(26)), (0.0, 1.0)),
        ),
    },
    cells=cells,
    score=score,
    figure=functools.partial(figures.scaling, paper=paper_map()),
    datasets=lambda grid: (),
)
