"""Accuracy against the size of the context, within and beyond that of meta-training."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, MARKERS, styled


@styled
def context_size(frame: pd.DataFrame, scale: str) -> Figure:
    """A panel for each dataset, a color for each length of meta-training: every seed a mark, their mean a line.

    Args:
      frame: columns `length`, `dataset`, `context`, `last`.
      scale: for the title.
    """
    frame = frame.dropna(subset=["last"])
    datasets = list(frame.dataset.unique())
    figure = Figure(figsize=(4.2 * len(datasets), 3.6))
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False, sharey=True)[0], datasets, strict=True):
        for number, (length, rows) in enumerate(frame[frame.dataset == dataset].groupby("length")):
            label = f"meta-trained with up to {length - 1:.0f}"
            mean = rows.groupby("context")["last"].mean()
            axes.plot(mean.index, mean, color=COLORS[number], linewidth=1)
            axes.scatter(rows.context, rows["last"], s=18, color=COLORS[number], marker=MARKERS[number], label=label)
            axes.axvline(length - 1, color=COLORS[number], linewidth=1, linestyle=":")
        axes.set(title=dataset, xlabel="examples in the context", xscale="log")
    figure.axes[0].set_ylabel("accuracy of queries, unseen tasks")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(f"{scale}: the size of the context", fontsize=10)
    return figure
