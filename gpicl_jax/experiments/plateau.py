"""`gpicl experiment plateau`: steps to leave the loss plateau, by the paper's remedies and by the architecture's.

Every condition is one change of the first; all have the same cap on steps.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax import figures
from gpicl_jax.config import load_config
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.survival import kaplan_meier_median, steps_to_leave
from gpicl_jax.experiments.trained import Member, ends, mean_and_deviation
from gpicl_jax.training.step import num_params

# Kind of remedy, condition: what it changes.
CONDITIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("paper", "none"): (),
    ("paper", "batch × 2"): ("--tasks.tasks_per_step=64",),
    ("paper", "small eps"): ("--optimizer.eps=1e-10", "--optimizer.eps_root=0.0"),
    ("paper", "sign"): ("--optimizer.name=sign", "--optimizer.learning_rate=1e-3"),
    ("paper", "90% keep labels"): ("--tasks.permute_labels_prob=0.1",),
    ("paper", "90% keep labels, annealed"): ("--tasks.permute_labels_prob=0.1", "--tasks.permute_labels_anneal=400"),
    ("other", "warm-up, cosine"): ("--optimizer.warmup_steps=100", "--optimizer.schedule=cosine"),
    ("other", "Muon"): ("--optimizer.name=muon", "--optimizer.learning_rate=2e-2"),
    ("other", "2^10 tasks"): ("--tasks.num_tasks=1024",),
    ("architecture", "RoPE"): ("--model.positions=rope",),
    ("architecture", "ALiBi"): ("--model.positions=alibi",),
    ("architecture", "smeared keys"): ("--model.smear_keys=true",),
    ("architecture", "paired"): ("--model.layout=paired",),
    ("architecture", "context and queries"): ("--model.name=context_query",),
}


class Grid(NamedTuple):
    """Attributes:

    configs: folder of the config.
    conditions: names in `CONDITIONS`.
    overrides: settings that replace those of the config.
    """

    configs: str
    conditions: tuple[tuple[str, str], ...]
    overrides: tuple[str, ...] = ()


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """All of them; conditions that differ in traced numbers alone share a program."""
    return [
        Cell(
            {"kind": kind, "condition": condition, "seed": seed},
            load_config(
                f"experiments/{grid.configs}/plateau",
                (*grid.overrides, *CONDITIONS[kind, condition], f"--train.seed={seed}"),
            ),
        )
        for kind, condition in grid.conditions
        for seed in range(seeds)
    ]


def score(trained: Member, grid: Grid) -> list[Row]:
    """When it left the plateau (empty: it did not); what it was worth at the end, on unseen, permuted tasks and test images."""
    config = trained.config
    return [
        {
            "left_plateau": steps_to_leave(trained.records, config.tasks.classes_per_task),
            "num_params": num_params(trained.params),
            **ends(trained.unseen(config.data.train[0], permute_labels_prob=1.0), tasks="unseen"),
        }
    ]


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each condition: `median`, `low`, `high` of the steps (`kaplan_meier_median`), `left` of `runs` that left the
    plateau, `cap`; of `last` the `accuracy` over seeds, `num_params`, and milliseconds of training a step."""
    rows = []
    for (kind, condition), part in frame.groupby(["kind", "condition"], sort=False):
        finite = part[part["last"].notna()]
        cap = part.steps.max()
        rows.append(
            {
                "kind": kind,
                "condition": condition,
                **kaplan_meier_median(part.left_plateau.to_numpy())._asdict(),
                "left": int(part.left_plateau.notna().sum()),
                "runs": len(part),
                "cap": cap,
                "accuracy": mean_and_deviation(finite["last"]),
                "num_params": finite.num_params.max(),
                "ms_per_step": 1000 * (part.seconds / part.steps).mean(),
            }
        )
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> str:
    """The table as Markdown."""
    lines = [
        "| condition | left | median steps (95% interval) | accuracy, last tenth | parameters | ms a step |",
        "|---|---|---|---|---|---|",
    ]
    for row in summarise(frame).itertuples():
        median, low, high = (f"{value:.0f}" if np.isfinite(value) else f"> {row.cap}" for value in row[3:6])
        steps = f"{low} – {high}" if low != high else low
        costs = f"{row.num_params:,.0f} | {row.ms_per_step:.1f}"
        lines.append(f"| {row.condition} | {row.left} of {row.runs} | {median} ({steps}) | {row.accuracy} | {costs} |")
    return "\n".join(lines)


def draw(frame: pd.DataFrame, scale: str) -> Figure:
    """The figure, with its summary."""
    return figures.plateau(frame, scale, summarise(frame))


EXPERIMENT = Experiment(
    name="plateau",
    about="steps to leave the loss plateau: the paper's remedies, and the architecture's",
    scales={
        "smoke": Scale(
            2,
            4,
            Grid(
                "laptop",
                (("paper", "none"), ("paper", "90% keep labels"), ("architecture", "paired")),
                (
                    "--data.train=digits",
                    "--train.steps=40",
                    "--train.chunk=20",
                    "--train.validate_every=20",
                    "--eval.episodes=64",
                ),
            ),
        ),
        "laptop": Scale(6, 24, Grid("laptop", tuple(CONDITIONS))),
        "paper": Scale(8, 8, Grid("paper", tuple(CONDITIONS))),
    },
    axes=("kind", "condition", "seed"),
    cells=cells,
    score=score,
    figure=draw,
    summary=summary,
    datasets=lambda grid: (),
    validation_permute=1.0,
)
