"""Accuracy of the equivariant Transformer, and of the same one without one of its symmetries."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, MARKERS, styled


@styled
def symmetries(frame: pd.DataFrame, scale: str) -> Figure:
    """A panel for each dataset, a color for each number of episodes: every seed a mark.

    Args:
      frame: columns `model`, `train_episodes`, `dataset`, `last`.
      scale: for the title.
    """
    frame = frame.dropna(subset=["last"])
    models, datasets = list(frame.model.unique()), list(frame.dataset.unique())
    figure = Figure(figsize=(3.2 * len(datasets) + 2.4, 0.45 * len(models) + 1.7))
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False, sharey=True)[0], datasets, strict=True):
        for number, (episodes, rows) in enumerate(frame[frame.dataset == dataset].groupby("train_episodes")):
            style = {"color": COLORS[number], "marker": MARKERS[number], "label": f"after {episodes:,} episodes"}
            axes.scatter(rows["last"], [-models.index(name) for name in rows.model], s=26, alpha=0.75, linewidths=0, **style)
        axes.set(title=dataset, xlabel="accuracy over the last tenth, unseen tasks", ylim=(-len(models) + 0.5, 0.5))
    figure.axes[0].set_yticks([-place for place in range(len(models))], [name.replace("_", " ") for name in models])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(f"{scale}: what each symmetry is worth", fontsize=10)
    return figure
