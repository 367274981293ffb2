"""Meta-training episodes until an accuracy is reached, beside the number of the paper's runs."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, MARKERS, styled

_PAPER = 25_600_000  # episodes of a run of the paper's table


@styled
def sample_efficiency(frame: pd.DataFrame, scale: str) -> Figure:
    """A line for each learner, a marker for each accuracy; an open one at the end of a run that did not reach it.

    Args:
      frame: columns `learner`, `accuracy`, `needed` (NaN where it was not reached), `trained`.
      scale: for the title.
    """
    frame = frame.dropna(subset=["last"])
    learners = list(frame.learner.unique())
    figure = Figure(figsize=(7.5, 0.5 * len(learners) + 1.7))
    axes = figure.subplots()
    for number, (accuracy, rows) in enumerate(frame.groupby("accuracy")):
        heights = pd.Series([-learners.index(name) - 0.15 * number for name in rows.learner], rows.index)
        style = {"color": COLORS[number], "marker": MARKERS[number], "s": 36}
        reached = rows.needed.notna()
        axes.scatter(rows.needed[reached], heights[reached], **style, label=f"{accuracy:.2f} reached")
        if not reached.all():
            label = f"{accuracy:.2f} not reached"
            axes.scatter(rows.trained[~reached], heights[~reached], **style, facecolors="none", label=label)
    axes.axvline(_PAPER, color="black", linewidth=1, linestyle=":", label="the paper's runs")
    axes.set(xscale="log", xlabel="episodes of meta-training", ylim=(-len(learners) + 0.4, 0.4))
    axes.set_yticks([-place - 0.15 for place in range(len(learners))], learners)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(f"{scale}: validation accuracy over the last tenth", fontsize=10)
    return figure
