"""Tidy DataFrames in, matplotlib figures out; nothing here trains or evaluates."""

import math
import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpicl_jax.figures.features import features
from gpicl_jax.figures.learning_curves_of_seeds import learning_curves_of_seeds
from gpicl_jax.figures.plateau import plateau
from gpicl_jax.figures.scaling import scaling
from gpicl_jax.figures.state_size import state_size
from gpicl_jax.figures.transition import transition
from gpicl_jax.paper import paper_learning_curve

__all__ = [
    "benchmarks",
    "comparison",
    "features",
    "learning_curves",
    "learning_curves_of_seeds",
    "plateau",
    "scaling",
    "state_size",
    "transition",
]

_LABELS = {
    "unseen_tasks": "unseen tasks",
    "unseen_tasks_permuted": "unseen tasks, labels always permuted",
    "unseen_tasks_train_images": "unseen tasks, training images",
    "seen_tasks": "seen tasks",
    "identity_tasks": "no projection",
}
_STYLES = ("-", "--", ":")


def learning_curves(frame: pd.DataFrame, *, learner: str, train: tuple[str, ...], chance: dict[str, float]) -> Figure:
    """Accuracy against examples seen, one panel for each dataset, with 95% intervals.

    Args:
      frame: rows of `evaluation.COLUMNS`; the other solvers on unseen tasks are drawn in black.
      learner: the value of `solver` that is drawn in colour.
      train: base datasets of meta-training; the paper's points for them are drawn as crosses.
      chance: accuracy of a guess, by dataset.
    """
    columns = min(3, len(chance))
    rows = math.ceil(len(chance) / columns)
    size = (7, 4.5) if len(chance) == 1 else (4.2 * columns, 3.2 * rows)
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for (dataset, guess), axes in zip(chance.items(), panels, strict=False):
        _panel(axes, frame[frame.dataset == dataset], learner, paper_learning_curve(train, dataset))
        axes.axhline(guess, color="grey", linestyle=(0, (1, 3)), label="chance")
        axes.set(title=dataset, xlabel="examples seen in the episode", ylabel="accuracy", ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in figure.axes[len(chance) :]:
        axes.remove()
    entries = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(f"Learning within an episode, meta-trained on {' + '.join(train)}", fontsize=11)
    return figure


def comparison(table: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Accuracy of every learner, one panel for each dataset, with 95% intervals; the paper's rows of that name as crosses.

    Args:
      table: rows of `experiments.report.summarise`, one for each learner, image size and dataset.
      paper: rows of `paper.paper_comparison`.
    """
    datasets, learners = list(dict.fromkeys(table.dataset)), list(dict.fromkeys(table.learner))[::-1]
    figure = Figure(figsize=(2.3 * len(datasets) + 1.5, 0.28 * len(learners) + 1.3), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(datasets), squeeze=False, sharey=True)[0]
    theirs = paper[paper.source == "paper"].replace({"method": {"transformer": "transformer_paper", "maml": "maml_online"}})
    for axes, dataset in zip(panels, datasets, strict=True):
        rows = table[table.dataset == dataset]
        for number, ((size, channels), part) in enumerate(rows.groupby(["size", "channels"], sort=False)):
            heights = [learners.index(name) for name in part.learner]
            label = f"{size}×{size}×{channels}"
            axes.errorbar(
                part["mean"],
                heights,
                xerr=part.interval.fillna(0),
                fmt="o^s"[number],
                color=f"C{number}",
                markersize=4,
                label=label,
            )
        marks = theirs[(theirs.dataset == dataset) & theirs.method.isin(learners)]
        heights = [learners.index(name) for name in marks.method]
        axes.plot(marks.accuracy, heights, "x", color="C3", markersize=6, label="the paper, 32×32×3, last example")
        axes.set(title=dataset, xlabel="accuracy", xlim=(0, 1.02))
        axes.grid(axis="y", linewidth=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(learners)), learners)
    entries = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def benchmarks(frame: pd.DataFrame) -> Figure:
    """Rates of JAX and PyTorch as bars with their spread, a panel for each table of them; memory against number of tasks.

    Args:
      frame: rows of `bench.rows.Row`, of one or several benchmarks.
    """
    rates = frame[frame.quantity.isin(("tasks/s", "episodes/s", "steps/s"))]
    tables = list(dict.fromkeys(rates.table))
    memory = frame[frame.quantity.isin(("peak MB", "stored MB"))]
    panels = [*tables, "memory"] if len(memory) else tables
    columns = min(2, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(5.6 * columns, 2.9 * rows), layout="constrained", dpi=120)
    axes_of = figure.subplots(rows, columns, squeeze=False).flat
    for axes, table in zip(axes_of, panels, strict=False):
        if table == "memory":
            _memory(axes, memory)
        else:
            _rates(axes, rates[rates.table == table])
        axes.spines[["top", "right"]].set_visible(False)
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    return figure


def _rates(axes: Axes, rows: pd.DataFrame) -> None:
    rows = rows.iloc[::-1]
    colors = ["C1" if side.startswith("pytorch") else "C0" for side in rows.side]
    errors = [rows["median"] - rows.low, rows.high - rows["median"]]
    axes.barh(rows.side, rows["median"], xerr=errors, color=colors, hatch=["//" if c == "C1" else "" for c in colors])
    axes.set_title("\n".join(textwrap.wrap(rows.table.iloc[0], 60)), fontsize=9)
    axes.set_xlabel(rows.quantity.iloc[0])


def _memory(axes: Axes, rows: pd.DataFrame) -> None:
    """Peaks as they were measured; PyTorch's stored bytes, beyond what was measured too, as a line."""
    names = rows.side.str.extract(r"(?P<side>\w+), 2\^(?P<exponent>\d+) tasks")
    rows = rows.assign(side=names.side, tasks=2.0 ** names.exponent.astype(int)).sort_values("tasks")
    for number, (side, mine) in enumerate(rows.groupby("side")):
        peaks, stored = mine[mine.quantity == "peak MB"], mine[(mine.quantity == "stored MB") & (mine["median"] > 0)]
        axes.plot(peaks.tasks, peaks["median"], "o^"[number] + "-", color=f"C{number}", label=f"{side}: peak, measured")
        if len(stored):
            axes.plot(stored.tasks, stored["median"], ":", color=f"C{number}", label=f"{side}: the stored tasks alone")
    axes.set(xscale="log", yscale="log", xlabel="number of tasks", ylabel="MB")
    axes.set_title("memory", fontsize=9)
    axes.legend(frameon=False, fontsize=8)


def _panel(axes: Axes, frame: pd.DataFrame, learner: str, paper: pd.DataFrame) -> None:
    for number, (tasks, label) in enumerate(_LABELS.items()):
        rows = frame[(frame.tasks == tasks) & (frame.solver == learner)].sort_values("position")
        if rows.empty:
            continue
        color = f"C{number}"
        axes.plot(rows.position, rows.accuracy, color=color, label=f"{learner}: {label}", linewidth=1.6)
        margin = 1.96 * rows.standard_error  # NaN for a single task: no band
        axes.fill_between(rows.position, rows.accuracy - margin, rows.accuracy + margin, color=color, alpha=0.2, linewidth=0)
    others = frame[(frame.solver != learner) & (frame.tasks == "unseen_tasks")]
    for style, (solver, rows) in zip(_STYLES, others.groupby("solver", sort=False), strict=False):
        rows = rows.sort_values("position")
        axes.plot(rows.position, rows.accuracy, style, color="black", linewidth=0.9, label=f"{solver}: unseen tasks")
    if len(paper):
        axes.plot(paper.position, paper.accuracy, "x", color="C3", markersize=6, label="the paper's Transformer: unseen tasks")
