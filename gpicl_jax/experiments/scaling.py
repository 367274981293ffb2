"""`gpicl experiment scaling`: model size × number of tasks, seen and unseen tasks (the paper's map, figure 3)."""

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd

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


def summary(frame: pd.DataFrame) -> str:
    """For each size the boundary of memorisation, the largest number of tasks with seen tasks 20 points above unseen ones, and
    the transition, the smallest one with half of the best gain on unseen tasks (where that is above 10 points)."""
    lines = ["| labels permuted | model | size | seen 20 points above unseen up to | unseen: best | half of its gain from |"]
    lines.append("|---|---|---|---|---|---|")
    for (permute, model, size), rows in frame.groupby(["permute", "model", "size"], sort=False):
        table = rows.pivot_table(index="num_tasks", columns="tasks", values="last", aggfunc="mean")
        memorised = table.index[table.seen - table.unseen > 0.2]
        unseen = table.unseen
        floor, best = unseen.iloc[0], unseen.max()
        half = unseen.index[unseen > (floor + best) / 2].min() if best > floor + 0.1 else None
        cells = (f"{permute:g}", model, size, f"2^{np.log2(memorised.max()):.0f}" if len(memorised) else "none", f"{best:.3f}")
        lines.append(f"| {' | '.join(map(str, cells))} | {f'2^{np.log2(half):.0f}' if half else '–'} |")
    return "\n".join(lines)


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
    axes=("permute", "model", "size", "num_tasks", "seed"),
    cells=cells,
    score=score,
    summary=summary,
    figure=functools.partial(figures.scaling, paper=paper_map()),
    datasets=lambda grid: (),
)
