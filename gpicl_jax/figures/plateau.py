"""Steps to leave the loss plateau, condition by condition."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, styled

_KINDS = {"paper": "the paper's remedies", "other": "optimiser, tasks, labels", "architecture": "architecture"}


@styled
def plateau(frame: pd.DataFrame, scale: str, summary: pd.DataFrame) -> Figure:
    """Left: every run's steps to leave the plateau and the median with its interval; right: accuracy at the end.

    Args:
      frame: columns `kind`, `condition`, `seed`, `left_plateau` (NaN: not before `steps`), `steps`, `last`.
      scale: for the title.
      summary: columns `kind`, `condition`, `median`, `low`, `high` (infinite: beyond the cap), `cap`, `last`.
    """
    summary = summary.iloc[::-1].reset_index(drop=True)
    cap = float(summary.cap.max())
    figure = Figure(figsize=(9.5, 0.32 * len(summary) + 1.5))
    steps, accuracy = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    for height, row in summary.iterrows():
        color = COLORS[list(_KINDS).index(row.kind)]
        runs = frame[(frame.kind == row.kind) & (frame.condition == row.condition)]
        left = runs.left_plateau.dropna()
        shift = np.linspace(-0.2, 0.2, len(runs))
        steps.plot(left, height + shift[: len(left)], "o", color=color, markersize=3.5, alpha=0.6)
        steps.plot(
            [cap] * (len(runs) - len(left)), height + shift[len(left) :], ">", color=color, markersize=4, fillstyle="none"
        )
        steps.plot(np.minimum([row.low, row.high], cap), [height] * 2, "-", color=color, linewidth=1)
        if np.isfinite(row["median"]):
            steps.plot(row["median"], height, "|", color="black", markersize=12, markeredgewidth=1.8)
        accuracy.plot(runs["last"], height + shift, "o", color=color, markersize=3.5, alpha=0.6, label=_KINDS[row.kind])
    steps.set_yticks(range(len(summary)), summary.condition)
    steps.axvline(cap, color="grey", linewidth=0.8, linestyle=(0, (1, 3)))
    steps.set(
        xlabel="steps to leave the plateau (▷: not before the cap)",
        xlim=(0, 1.05 * cap),
        title=f"{scale}: runs, median, 95% interval",
    )
    accuracy.set(xlabel="accuracy, last tenth, unseen tasks", title="at the cap", xlim=(0, None))
    entries = dict(zip(*accuracy.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
    return figure
