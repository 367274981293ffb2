"""Accuracy of the equivariant Transformer beside kernel ridge on the same episodes, and the paper's numbers."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, MARKERS, styled
from gpicl_jax.paper import paper_comparison


@styled
def equivariant(frame: pd.DataFrame, scale: str) -> Figure:
    """A panel for each dataset, a line for each condition: every seed a mark.

    Args:
      frame: columns `trained_on`, `dataset`, `last_row`, `kernel ridge last_row`.
      scale: for the title.
    """
    frame, theirs = frame.dropna(subset=["last_row"]), paper_comparison()
    theirs = theirs[theirs.source == "paper"]
    conditions, datasets = list(frame.trained_on.unique()), list(frame.dataset.unique())
    figure = Figure(figsize=(2.1 * len(datasets) + 2.4, 0.45 * len(conditions) + 1.7))
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False, sharey=True)[0], datasets, strict=True):
        rows = frame[frame.dataset == dataset]
        heights = [-conditions.index(name) for name in rows.trained_on]
        axes.scatter(rows["kernel ridge last_row"], heights, marker="|", s=120, color=COLORS[6], label="kernel ridge")
        axes.scatter(
            rows.last_row, heights, marker=MARKERS[0], s=22, alpha=0.75, color=COLORS[0], label="equivariant, each seed"
        )
        for number, (method, label) in enumerate({"transformer": "the paper's GPICL", "vsml": "the paper's VSML"}.items()):
            for value in theirs[(theirs.dataset == dataset) & (theirs.method == method)].accuracy:
                axes.axvline(value, color=COLORS[1 + number], linewidth=1, linestyle=("-", ":")[number], label=label)
        axes.set(title=dataset, xlabel="accuracy after 99 examples", ylim=(-len(conditions) + 0.5, 0.5))
    figure.axes[0].set_yticks([-place for place in range(len(conditions))], conditions)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(f"{scale}: unseen tasks, test images", fontsize=10)
    return figure
