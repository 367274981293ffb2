"""Learning curves, trained on one dataset and tested on another, over several meta-training seeds."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, styled
from gpicl_jax.paper import paper_learning_curve

_STYLES = ("-", "--", ":", "-.")


@styled
def learning_curves_of_seeds(frame: pd.DataFrame, scale: str) -> Figure:
    """A panel for each test dataset; colour: what was trained on; line: learner. Bands are the spread of the seeds.

    Args:
      frame: columns `learner`, `trained_on`, `dataset`, `length`, `position`, `seed`, `accuracy`; of several lengths the
        longest is drawn.
      scale: for the title.
    """
    datasets, trained = list(dict.fromkeys(frame.dataset)), list(dict.fromkeys(frame.trained_on))
    figure = Figure(figsize=(4.6 * len(datasets), 4.2))
    panels = figure.subplots(1, len(datasets), squeeze=False, sharey=True)[0]
    for axes, dataset in zip(panels, datasets, strict=True):
        for line, (learner, of_learner) in zip(
            _STYLES, frame[frame.dataset == dataset].groupby("learner", sort=False), strict=False
        ):
            for color, name in zip(COLORS, trained, strict=False):
                rows = of_learner[of_learner.trained_on == name]
                rows = rows[rows.length == rows.length.max()]
                curve = rows.groupby("position").accuracy.agg(["mean", "min", "max"])
                axes.plot(
                    curve.index + 1, curve["mean"], line, color=color, label=f"{learner}, trained on {name}", linewidth=1.4
                )
                axes.fill_between(curve.index + 1, curve["min"], curve["max"], color=color, alpha=0.15, linewidth=0)
        for color, name in zip(COLORS, trained, strict=False):
            paper = paper_learning_curve((name,), dataset)
            if len(paper):
                axes.plot(paper.position + 1, paper.accuracy, "x", color=color, label=f"the paper (14×14), trained on {name}")
        axes.axvline(
            frame.length.min(), color="grey", linewidth=0.8, linestyle=(0, (1, 3)), label="longest episode of training"
        )
        axes.set(title=f"tested on {dataset}", xlabel="examples seen + 1", ylim=(0, 1), xscale="log")
    panels[0].set_ylabel("accuracy, unseen tasks")
    entries = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=2)
    figure.suptitle(f"{scale}: mean, smallest and largest of the seeds", fontsize=10)
    return figure
