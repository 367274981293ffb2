"""`gpicl experiment equivariant`."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.evaluation import Scores
from gpicl_jax.experiments.engine import SMOKE, Experiment, Grid, Member, Row, markdown
from gpicl_jax.figures.style import COLORS, finished, marks, panels, top_down
from gpicl_jax.learners.base import final_rows
from gpicl_jax.paper import paper_table
from gpicl_jax.registry import register

_THREE = '--data.train=["mnist", "fashion_mnist", "cifar10"]'
# What is meta-trained on, and at which image size: the settings that make it so.
CONDITIONS: dict[str, tuple[str, ...]] = {
    "mnist, 32×32×3": (),
    "mnist + fashion_mnist + cifar10, 32×32×3": (_THREE, "--tasks.feature_scales=0.8", "--tasks.clutter=1.0"),
    "mnist, 14×14×1": ("--data.size=14", "--data.channels=1"),
    "mnist, 8×8×1": ("--data.size=8", "--data.channels=1"),
    "digits, 8×8×1": ("--data.train=digits", "--data.size=8", "--data.channels=1"),
}
_SMOKE = (*SMOKE, "--optimizer.warmup_steps=10", "--eval.episodes=64")
_METHODS = {"transformer": "the paper's GPICL", "vsml": "the paper's VSML"}


@register("equivariant")
class Equivariant(Experiment):
    """The paper's table by a learner that has the symmetries of its tasks."""

    conditions: tuple[str, ...] = tuple(name for name in CONDITIONS if name.startswith("mnist"))
    datasets: tuple[str, ...] = ("mnist", "fashion_mnist", "kmnist", "random", "cifar10")

    axes = ("trained_on", "seed")
    scales = {
        "smoke": dict(conditions=("digits, 8×8×1",), datasets=("digits", "random"), overrides=_SMOKE),
        "laptop": dict(seeds=3, together=3),
        "paper": dict(seeds=3, together=3, overrides=("--tasks.tasks_per_step=64", "--train.steps=100000")),
    }

    def table(self) -> Grid:
        return {(name,): ("experiments/laptop/equivariant", *CONDITIONS[name]) for name in self.conditions}

    def score(self, trained: Member) -> list[Row]:
        """Returns a row for each dataset: learner and solvers on the same episodes, and the paired margin over kernel ridge."""
        rows = []
        for dataset in self.datasets:
            scores = trained.beside_solvers(dataset)
            learner = scores["learner"]
            row: dict[str, Any] = {"tasks": "unseen", "dataset": dataset, "first": learner.first()[0]}
            for solver, each in scores.items():
                row |= {f"{solver} {name}".removeprefix("learner "): value for name, value in _ends(each).items()}
            last = final_rows(trained.config.tasks.length)
            margin_T = (learner.accuracy_TSL - scores["kernel ridge"].accuracy_TSL)[:, :, last].mean(axis=(1, 2))
            row |= {"margin": margin_T.mean(), "margin_standard_error": margin_T.std(ddof=1) / len(margin_T) ** 0.5}
            rows.append(row | {"loss": learner.loss, "episodes": learner.episodes})
        return rows

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns percents: mean ± standard deviation over seeds, where there are several, ± standard error over tasks."""
        paper = paper_table("comparison").query("source == 'paper'").set_index(["method", "dataset"]).accuracy
        table = []
        for (condition, dataset), rows in frame.groupby(["trained_on", "dataset"], sort=False):
            theirs = [f"{100 * paper[each, dataset]:.1f}" if (each, dataset) in paper else "–" for each in _METHODS]
            names = ("last", "last_row", "kernel ridge last", "kernel ridge last_row", "margin")
            table.append([condition, dataset, *(_percent(rows, name) for name in names), ", ".join(theirs)])
        names = ["trained on", "dataset", "positions 90–99", "position 99", "kernel ridge, 90–99", "position 99"]
        return markdown([*names, "ours − kernel ridge, 90–99", "the paper's GPICL, VSML, position 99"], table)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws a panel for each dataset, a line for each condition, a mark for each seed, and kernel ridge."""
        theirs, datasets = paper_table("comparison").query("source == 'paper'"), frame.dataset.unique()
        figure, axes_of = panels(datasets, 2.1 * len(datasets) + 2.4, 0.45 * frame.trained_on.nunique() + 1.7)
        frame = frame.assign(label="equivariant, each seed")
        for dataset, axes in axes_of.items():
            rows = frame[frame.dataset == dataset]
            style = {"marker": "|", "s": 120, "color": COLORS[6], "label": "kernel ridge"}
            axes.scatter(rows["kernel ridge last_row"], rows.trained_on, **style)
            marks(axes, rows, "last_row", "trained_on", "label")
            for number, (method, label) in enumerate(_METHODS.items()):
                for value in theirs[(theirs.dataset == dataset) & (theirs.method == method)].accuracy:
                    axes.axvline(value, color=COLORS[1 + number], linewidth=1, linestyle=("-", ":")[number], label=label)
            axes.set(title=dataset, xlabel="accuracy after 99 examples")
        top_down(figure)
        return finished(figure, 4, f"{self.scale}: unseen tasks, test images")


def _ends(scores: Scores) -> Row:
    (last, error), (final, final_error) = scores.last(), scores.accuracy(slice(-1, None))
    return {"last": last, "last_standard_error": error, "last_row": final, "last_row_standard_error": final_error}


def _percent(rows: pd.DataFrame, name: str) -> str:
    means, errors, sign = 100 * rows[name], 100 * rows[f"{name}_standard_error"], "+" if name == "margin" else ""
    over_seeds = f" ± {means.std(ddof=1):.1f}" if len(rows) > 1 else ""
    return f"{means.mean():{sign}.1f}{over_seeds} ± {errors.mean():.1f}"
