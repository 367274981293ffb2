"""Every learner on every dataset."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import styled


@styled
def comparison(table: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Accuracy of every learner, one panel for each dataset, with 95% intervals; the paper's rows of that name as crosses.

    Args:
      table: rows of `experiments.report.summarise`, one for each learner, image size and dataset.
      paper: rows of `paper.paper_comparison`.
    """
    datasets, learners = list(dict.fromkeys(table.dataset)), list(dict.fromkeys(table.learner))[::-1]
    figure = Figure(figsize=(2.3 * len(datasets) + 1.5, 0.28 * len(learners) + 1.3))
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
