"""MAML on Omniglot: the study's plots along meta-training, and what each change is worth."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, styled

_WINDOWS = (1, 50, 300)  # meta-steps
_INNER_WINDOW = 5
_ROWS, _COLUMNS = 13, 8


@styled
def omniglot_maml(frame: pd.DataFrame, scale: str, summary: pd.DataFrame) -> Figure:
    """Left: accuracy after adaptation before and after meta-training, every seed a mark; right: the gain with its interval.

    Args:
      frame: columns `condition`, `tasks` (`before`, `after`), `last`.
      scale: for the title.
      summary: columns `condition`, `gain`, `interval`.
    """
    summary = summary.iloc[::-1].reset_index(drop=True)
    figure = Figure(figsize=(9, 0.28 * len(summary) + 1.6))
    accuracy, gain = figure.subplots(1, 2, sharey=True)
    for height, row in summary.iterrows():
        for number, when in enumerate(("before", "after")):
            runs = frame[(frame.condition == row.condition) & (frame.tasks == when)]["last"]
            label = f"{when} meta-training" if height == 0 else None
            accuracy.plot(runs, [height] * len(runs), "os"[number], color=COLORS[number], alpha=0.7, markersize=4, label=label)
        gain.errorbar(row.gain, height, xerr=row.interval, fmt="o", color=COLORS[2], markersize=4, capsize=2)
    accuracy.set_yticks(range(len(summary)), summary.condition)
    accuracy.axvline(0.5, color="grey", linewidth=0.8, linestyle=(0, (1, 3)))
    gain.axvline(0, color="grey", linewidth=0.8, linestyle=(0, (1, 3)))
    accuracy.set(xlabel="accuracy after adaptation, meta-test problems", title=scale)
    gain.set(xlabel="gained by meta-training, 95% interval")
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def meta_losses(frame: pd.DataFrame, conditions: list[str]) -> Figure:
    """The optimised loss and that of the whole validation set against the meta-step, raw and smoothed; bands are the range
    over seeds.

    Args:
      frame: columns `condition`, `seed`, `step`, `loss`, `queries_loss` (of meta-training), `validation_loss`.
      conditions: in this order; a row each.
    """
    conditions = [each for each in conditions if (frame.condition == each).any()]
    figure = Figure(figsize=(10, 1.5 * len(conditions) + 1))
    panels = figure.subplots(len(conditions), len(_WINDOWS), sharex=True, sharey="row", squeeze=False)
    columns = {"loss": "optimised loss", "queries_loss": "whole validation set", "validation_loss": "meta-validation"}
    for axes_w, condition in zip(panels, conditions, strict=True):
        rows = frame[frame.condition == condition]
        for axes, window in zip(axes_w, _WINDOWS, strict=True):
            for number, (column, label) in enumerate(columns.items()):
                table = rows.dropna(subset=[column]).pivot_table(index="step", columns="seed", values=column)
                if column != "validation_loss":
                    table = table.rolling(window, min_periods=window).mean().dropna()
                axes.fill_between(
                    table.index, table.min(axis=1), table.max(axis=1), color=COLORS[number], alpha=0.2, linewidth=0
                )
                axes.plot(table.index, table.mean(axis=1), color=COLORS[number], linewidth=0.9, label=label)
        axes_w[0].set_ylabel(condition.replace(", ", ",\n"), fontsize=7)
    for axes, window in zip(panels[0], _WINDOWS, strict=True):
        axes.set_title("raw" if window == 1 else f"mean over {window} meta-steps")
    for axes in panels[-1]:
        axes.set_xlabel("meta-step")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def inner_losses(frame: pd.DataFrame, column: str, condition: str) -> Figure:
    """A grid: a row for a meta-step, a column for a problem; the loss along the inner loop, raw and smoothed.

    Args:
      frame: columns `step` and `column`, whose values are lists [problems][inner steps], None where an inner loop diverged.
      column: `inner_loss` or `inner_validation_loss`.
      condition: for the title.
    """
    frame = frame.sort_values("step")
    frame = frame.iloc[np.unique(np.linspace(0, len(frame) - 1, min(_ROWS, len(frame))).round().astype(int))]
    figure = Figure(figsize=(10, 0.8 * len(frame) + 1))
    panels = figure.subplots(len(frame), _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes_p, (_, row) in zip(panels, frame.iterrows(), strict=True):
        for axes, losses in zip(axes_p, row[column], strict=False):
            losses = np.asarray(losses, float)
            axes.plot(1 + np.arange(len(losses)), losses, color=COLORS[0], linewidth=0.5, alpha=0.5, label="raw")
            smooth = np.convolve(losses, np.full(_INNER_WINDOW, 1 / _INNER_WINDOW), "valid")
            axes.plot(_INNER_WINDOW + np.arange(len(smooth)), smooth, color=COLORS[1], linewidth=1, label="mean over 5 steps")
        axes_p[0].set_ylabel(f"step {row.step:.0f}", fontsize=7)
    figure.suptitle(f"{condition}: {column.replace('_', ' ')} along the inner loop, one problem a column", fontsize=10)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
