"""Accuracy in the feature space of a frozen network."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, styled


@styled
def features(frame: pd.DataFrame, scale: str) -> Figure:
    """Every seed a mark, for each file of features: the first example and the last tenth of an episode.

    Args:
      frame: columns `dataset`, `seed`, `first`, `last`.
      scale: for the title.
    """
    frame = frame.dropna(subset=["last"])
    names = list(dict.fromkeys(frame.dataset))
    figure = Figure(figsize=(6.5, 0.5 * len(names) + 1.6))
    axes = figure.subplots()
    for number, (column, label) in enumerate((("first", "first example"), ("last", "last tenth"))):
        heights = [names.index(name) for name in frame.dataset]
        axes.plot(frame[column], heights, "os"[number], color=COLORS[number], alpha=0.7, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.set(
        xlim=(0, 1), xlabel="accuracy, unseen tasks", title=f"{scale}: trained on {names[0]}", ylim=(len(names) - 0.5, -0.5)
    )
    axes.legend()
    return figure
