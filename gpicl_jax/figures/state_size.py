"""Accuracy against what a learner carries from example to example, and against its parameters."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, MARKERS, styled


@styled
def state_size(frame: pd.DataFrame, scale: str) -> Figure:
    """Two panels with the same accuracies: every seed a mark.

    Args:
      frame: columns `learner`, `state_size`, `num_params`, `last`.
      scale: for the title.
    """
    frame = frame.dropna(subset=["last"])
    figure = Figure(figsize=(9, 3.8))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, column, label in zip(panels, ("state_size", "num_params"), ("numbers in the state", "parameters"), strict=True):
        for number, (learner, rows) in enumerate(frame.groupby("learner", sort=False)):
            style = {"color": COLORS[number], "marker": MARKERS[number], "label": learner.replace("_", " ")}
            axes.scatter(rows[column], rows["last"], s=26, alpha=0.75, linewidths=0, **style)
        axes.set(xscale="log", xlabel=label)
    panels[0].set_ylabel("accuracy over the last tenth, unseen tasks")
    figure.suptitle(f"{scale}: accuracy and size", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
