"""`gpicl experiment few-shot`: N-way K-shot problems on Omniglot, by MAML and its kin and by learning in context."""

import dataclasses
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax import figures
from gpicl_jax.config import load_config
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.trained import Member, half_width
from gpicl_jax.learners.maml import Maml
from gpicl_jax.sections import Config
from gpicl_jax.training.step import num_params

# What each learner changes of the problem's own config.
LEARNERS: dict[str, tuple[str, ...]] = {
    "maml": (),
    "first-order maml": ("--learner.first_order=true",),
    "learned rates": ("--learner.learn_rates=true",),
    "anil": ("--learner.head_only=true",),
    "context_query": (),
}
_TEST_STEPS = (1, 3, 5, 10)  # inner steps at test time
PAPER_STEPS = {5: 3, 20: 5}  # by N
# Finn et al. 2017, table 1; first order: Nichol et al. 2018, arXiv 1803.02999, table 2 (with transduction). Percent.
PAPER = {
    ("maml", "5way_1shot"): 98.7,
    ("maml", "5way_5shot"): 99.9,
    ("maml", "20way_1shot"): 95.8,
    ("maml", "20way_5shot"): 98.9,
    ("first-order maml", "5way_1shot"): 98.3,
    ("first-order maml", "5way_5shot"): 99.2,
    ("first-order maml", "20way_1shot"): 89.4,
    ("first-order maml", "20way_5shot"): 97.9,
}


class Grid(NamedTuple):
    """Attributes:

    problems: name of a config in `configs/omniglot`, with the settings that replace its own.
    learners: names in `LEARNERS`.
    """

    problems: dict[str, tuple[str, ...]]
    learners: tuple[str, ...] = tuple(LEARNERS)


def laptop(steps: int) -> tuple[str, ...]:
    """Fewer meta-training steps than the paper's, with a cosine schedule, in parts that two cores take well."""
    return (f"--train.steps={steps}", "--optimizer.schedule=cosine", "--train.accumulate=4")


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """All of them; the seeds of a learner and a problem share a program."""
    return [
        Cell(
            {"learner": learner, "problem": problem, "seed": seed},
            _config(learner, problem, (*overrides, f"--train.seed={seed}")),
        )
        for problem, overrides in grid.problems.items()
        for learner in grid.learners
        for seed in range(seeds)
    ]


def _config(learner: str, problem: str, overrides: tuple[str, ...]) -> Config:
    if learner != "context_query":
        return load_config(f"omniglot/{problem}", (*overrides, *LEARNERS[learner]))
    tasks = load_config(f"omniglot/{problem}").tasks
    shape = (f"--tasks.{name}={getattr(tasks, name)}" for name in ("classes_per_task", "num_context", "length"))
    return load_config("omniglot/context_query", (*shape, *overrides))


def score(trained: Member, grid: Grid) -> list[Row]:
    """Accuracy over all queries of test problems, whose characters no meta-training saw: a row for each number of inner steps
    at test time, of which `trained_steps` is that of meta-training."""
    about, learner = {"tasks": "test", "num_params": num_params(trained.params)}, trained.test.learner
    if not isinstance(learner, Maml):
        return [about | {"inner_steps": None} | _found(trained)]
    counts = sorted({learner.inner_steps, *_TEST_STEPS})
    others = (dataclasses.replace(learner, inner_steps=steps) for steps in counts)
    return [
        about | {"inner_steps": steps, "trained_steps": learner.inner_steps} | _found(trained.with_learner(other))
        for steps, other in zip(counts, others, strict=True)
    ]


def _found(trained: Member) -> Row:
    scores = trained.unseen(trained.config.data.train[0])
    accuracy, error = scores.last() if scores.finite else (None, None)  # the inner loop diverged
    return {"last": accuracy, "last_standard_error": error, "episodes": scores.episodes}


def headline(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each learner and problem: `last` with its half-width `interval` of 95%, over `seeds` seeds.

    The number of inner steps at test time is the paper's, 3 at 5-way and 5 at 20-way. `last` is NaN where the inner loop of a
    seed diverged, in one problem or more.
    """
    rows = []
    for (learner, problem), part in frame.groupby(["learner", "problem"], sort=False):
        way = int(problem.split("way")[0])
        at = part[(part.tasks == "test") & (part.inner_steps.isna() | (part.inner_steps == PAPER_STEPS[way]))]
        if at.empty:  # all members diverged in meta-training
            continue
        seeds = len(at)
        interval = half_width(at["last"], at.last_standard_error)
        about = {
            "learner": learner,
            "problem": problem,
            "seeds": seeds,
            "meta_steps": at.steps.max(),
            "episodes": at.episodes.sum(),
        }
        rows.append(about | {"last": at["last"].mean(skipna=False), "interval": interval})
    return pd.DataFrame(rows, columns=["learner", "problem", "seeds", "meta_steps", "episodes", "last", "interval"])


def summary(frame: pd.DataFrame) -> str:
    """Both tables: at the paper's number of inner steps, and at each number."""
    lines = ["| learner | problem | test accuracy, 95% | paper | meta-steps | seeds × problems |", "|---|---|---|---|---|---|"]
    for row in headline(frame).itertuples():
        paper = PAPER.get((row.learner, row.problem))
        told = "diverges" if pd.isna(row.last) else f"{100 * row.last:.1f} ± {100 * row.interval:.1f}"
        lines.append(
            f"| {row.learner} | {row.problem} | {told} | {'–' if paper is None else f'{paper:.1f}'} | {row.meta_steps:,} "
            f"| {row.seeds} × {row.episodes // row.seeds:,} |"
        )
    by_steps = (
        frame.dropna(subset=["inner_steps"])
        .groupby(["learner", "problem", "inner_steps"], sort=False)["last"]
        .agg(lambda each: each.mean(skipna=False))
    )
    if len(by_steps):
        lines += ["", "Accuracy at each number of inner steps at test time, mean over seeds:"]
        for (learner, problem), part in by_steps.groupby(level=[0, 1], sort=False):
            told = {
                steps: "the inner loop diverges" if pd.isna(value) else f"{100 * value:.1f}"
                for (*_, steps), value in part.items()
            }
            lines.append(f"- {learner}, {problem}: {', '.join(f'{steps:.0f}: {each}' for steps, each in told.items())}")
    return "\n".join(lines)


def draw(frame: pd.DataFrame, scale: str) -> Figure:
    """The figure, with the paper's numbers."""
    return figures.few_shot(headline(frame), scale, PAPER)


_FEW_STEPS = ("--train.steps=20", "--train.chunk=10", "--train.validate_every=20", "--model.width=8", "--eval.episodes=64")

EXPERIMENT = Experiment(
    name="few-shot",
    about="N-way K-shot problems on Omniglot: MAML and its kin, and learning in context",
    scales={
        "smoke": Scale(1, 1, Grid({"5way_1shot": _FEW_STEPS}, ("maml", "context_query"))),
        "laptop": Scale(1, 1, Grid({"5way_1shot": laptop(16_000), "5way_5shot": laptop(2000)})),
        "paper": Scale(3, 3, Grid({problem: () for problem in ("5way_1shot", "5way_5shot", "20way_1shot", "20way_5shot")})),
    },
    axes=("learner", "problem", "seed"),
    cells=cells,
    score=score,
    figure=draw,
    summary=summary,
    datasets=lambda grid: (),
)
