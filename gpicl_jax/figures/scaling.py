"""The map: accuracy by model size and number of tasks."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpicl_jax.figures.style import styled

_PANELS = [("mlp", "seen"), ("mlp", "unseen"), ("transformer", "seen"), ("transformer", "unseen")]
_LABELS = {0.0: "labels as they are", 1.0: "permuted labels"}


@styled
def scaling(frame: pd.DataFrame, scale: str, *, paper: pd.DataFrame) -> Figure:
    """A panel for each model and kind of task, a row for each setting of the labels, and the paper's maps below.

    Args:
      frame: columns `permute`, `model`, `size`, `num_tasks`, `seed`, `tasks`, `last`; a mean over seeds is drawn.
      scale: for the title.
      paper: columns `model`, `tasks`, `model_size`, `num_tasks`, `accuracy`; it leaves out the MLP on unseen tasks.
    """
    maps = [(f"{scale}: {_LABELS.get(value, value)}", rows) for value, rows in frame.groupby("permute")]
    theirs = paper.rename(columns={"model_size": "size", "accuracy": "last"})
    maps.append(("the paper (14×14; labels as they are, inferred)", theirs))
    figure = Figure(figsize=(11.5, 2.9 * len(maps) + 0.3))
    panels = figure.subplots(len(maps), 4, squeeze=False)
    image = None
    for row_of_panels, (title, rows) in zip(panels, maps, strict=True):
        for axes, (model, tasks) in zip(row_of_panels, _PANELS, strict=True):
            part = rows[(rows.model == model) & (rows.tasks == tasks)] if "tasks" in rows else rows[:0]
            name = "Transformer" if model == "transformer" else "MLP"
            axes.set_title(f"{name}, {tasks} tasks")
            image = _map(axes, part) or image
        row_of_panels[0].set_ylabel(f"{title}\n\nnumber of tasks")
    for axes in panels[-1]:
        axes.set_xlabel("model size")
    if image is not None:
        figure.colorbar(image, ax=panels, label="accuracy over the last tenth of an episode", shrink=0.6, pad=0.01)
    return figure


def _map(axes: Axes, rows: pd.DataFrame):
    rows = rows.dropna(subset=["last"]) if len(rows) else rows
    if rows.empty:
        axes.text(0.5, 0.5, "not there", ha="center", va="center", transform=axes.transAxes, color="grey")
        axes.set(xticks=[], yticks=[])
        return None
    table = rows.pivot_table(index="num_tasks", columns="size", values="last", aggfunc="mean")
    image = axes.imshow(table, origin="lower", aspect="auto", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(table.shape[1]), [str(size) for size in table.columns], rotation=60 if table.shape[1] > 7 else 0)
    every = max(1, round(table.shape[0] / 9))
    powers = np.log2(table.index.to_numpy(float)).round().astype(int)
    axes.set_yticks(range(0, len(powers), every), [f"$2^{{{power}}}$" for power in powers[::every]])
    if table.size <= 90:
        for (row, column), value in np.ndenumerate(table.to_numpy()):
            if np.isfinite(value):
                color = "white" if value < 0.6 else "black"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=color, fontsize=6.5)
    axes.spines[:].set_visible(False)
    return image
