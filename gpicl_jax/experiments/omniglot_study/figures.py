"""The study's own plots: losses along meta-training, and along the inner loop."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, finished, styled

_WINDOWS = (1, 50, 300)  # meta-steps
_INNER_WINDOW = 5
_ROWS, _COLUMNS = 13, 8


@styled
def meta_losses(frame: pd.DataFrame, conditions: list[str]) -> Figure:
    """Draws the optimised loss and the whole validation set's loss against the meta-step, raw and smoothed, a row a condition.

    Bands are the range over seeds.
    """
    figure = Figure(figsize=(10, 1.5 * len(conditions) + 1))
    grid = figure.subplots(len(conditions), len(_WINDOWS), sharex=True, sharey="row", squeeze=False)
    columns = {"loss": "optimised loss", "queries_loss": "whole validation set", "validation_loss": "meta-validation"}
    for axes_w, condition in zip(grid, conditions, strict=True):
        rows = frame[frame.condition == condition]
        for axes, window in zip(axes_w, _WINDOWS, strict=True):
            for color, (column, label) in zip(COLORS, columns.items(), strict=False):
                table = rows.dropna(subset=[column]).pivot_table(index="step", columns="seed", values=column)
                if column != "validation_loss":
                    table = table.rolling(window, min_periods=window).mean().dropna()
                axes.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=color, alpha=0.2, linewidth=0)
                axes.plot(table.index, table.mean(axis=1), color=color, linewidth=0.9, label=label)
        axes_w[0].set_ylabel(condition.replace(", ", ",\n"), fontsize=7)
    for axes, window in zip(grid[0], _WINDOWS, strict=True):
        axes.set_title("raw" if window == 1 else f"mean over {window} meta-steps")
    for axes in grid[-1]:
        axes.set_xlabel("meta-step")
    return finished(figure, 3)


@styled
def inner_losses(frame: pd.DataFrame, column: str, condition: str) -> Figure:
    """Draws the loss along the inner loop, raw and smoothed, with a row for each meta-step and a column for each problem.

    Args:
      frame: training records. Values of `column` are lists [problems][inner steps], None where an inner loop diverged.
      column: `inner_loss` or `inner_validation_loss`.
      condition: text of the title.
    """
    frame = frame.dropna(subset=[column]).sort_values("step")
    frame = pd.concat([frame[:1].assign(step=0, **{column: frame[f"untrained_{column}"]}), frame])
    frame = frame.iloc[np.unique(np.linspace(0, len(frame) - 1, min(_ROWS, len(frame))).round().astype(int))]
    figure = Figure(figsize=(10, 0.8 * len(frame) + 1))
    grid = figure.subplots(len(frame), _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes_p, (_, row) in zip(grid, frame.iterrows(), strict=True):
        for axes, losses in zip(axes_p, row[column], strict=False):
            losses = np.asarray(losses, float)
            axes.plot(1 + np.arange(len(losses)), losses, color=COLORS[0], linewidth=0.5, alpha=0.5, label="raw")
            smooth = np.convolve(losses, np.full(_INNER_WINDOW, 1 / _INNER_WINDOW), "valid")
            axes.plot(_INNER_WINDOW + np.arange(len(smooth)), smooth, color=COLORS[1], linewidth=1, label="mean over 5 steps")
        axes_p[0].set_ylabel(f"step {row.step:.0f}", fontsize=7)
    return finished(figure, 2, f"{condition}: {column.replace('_', ' ')} along the inner loop, one problem a column")
