"""The transition from memorising tasks to learning them in context."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, MARKERS, styled


@styled
def transition(frame: pd.DataFrame, scale: str, *, paper: pd.DataFrame) -> Figure:
    """Accuracy gained within an episode against the number of tasks: every seed a mark, their mean a line; the paper's below.

    Args:
      frame: columns `num_tasks`, `seed`, `tasks`, `dataset`, `first`, `last`.
      scale: for the title.
      paper: columns `source`, `evaluation`, `num_tasks`, `accuracy_improvement`.
    """
    figure = Figure(figsize=(7.5, 6.4))
    ours, theirs = figure.subplots(2, 1, sharey=True)
    frame = frame.dropna(subset=["last"]) if len(frame) else frame
    for number, ((tasks, dataset), rows) in enumerate(frame.groupby(["tasks", "dataset"], sort=False)):
        gain = (rows["last"] - rows["first"]).to_numpy()
        spread = 1 + 0.06 * (number - 1)  # side by side
        color, marker = COLORS[number], MARKERS[number]
        ours.scatter(rows.num_tasks * spread, gain, s=16, color=color, marker=marker, alpha=0.55, linewidths=0)
        mean = rows.assign(gain=gain).groupby("num_tasks").gain.mean()
        ours.plot(mean.index * spread, mean, color=color, marker=marker, markersize=3, label=f"{tasks} tasks, {dataset}")
    seeds = frame.seed.nunique() if len(frame) else 0
    ours.set_title(f"{scale}: every seed of {seeds}, and their mean")
    for number, (evaluation, rows) in enumerate(paper[paper.source == "paper"].groupby("evaluation", sort=False)):
        rows = rows.sort_values("num_tasks")
        tasks, dataset = evaluation.split("_", 1)
        theirs.plot(
            rows.num_tasks,
            rows.accuracy_improvement,
            color=COLORS[number],
            marker=MARKERS[number],
            markersize=4,
            label=f"{tasks} tasks, {dataset}",
        )
    theirs.set_title("the paper (14×14), digitised")
    for axes in (ours, theirs):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="number of tasks in meta-training", ylabel="accuracy, last tenth − first")
        axes.axhline(0, color="grey", linewidth=0.8, linestyle=(0, (1, 3)))
        axes.legend(loc="upper left")
        axes.set_ylim(min(-0.1, float(np.nanmin([*axes.get_ylim()]))), 0.75)
    return figure
