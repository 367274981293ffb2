"""`gpicl experiment scaling`: the paper's map, figure 3."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpicl_jax.experiments.engine import SMOKE, Experiment, Grid, Member, Row, ends, markdown
from gpicl_jax.paper import paper_table
from gpicl_jax.registry import register

_POWERS = tuple(2**power for power in range(1, 11))
_ALL = (("transformer", _POWERS[:9]), ("mlp", _POWERS))
_SMALLEST = (("mlp", (4,)), ("transformer", (8,)))
_PANELS = [("mlp", "seen"), ("mlp", "unseen"), ("transformer", "seen"), ("transformer", "unseen")]
_LABELS = {0.0: "labels as they are", 1.0: "permuted labels"}


@register("scaling")
class Scaling(Experiment):
    """Model size × number of tasks, seen and unseen tasks.

    Attributes:
      sizes: widths, by model.
      log2_tasks: numbers of tasks, as powers of 2.
      chances: that a task permutes its labels, in training and at test. The paper's map is that of 0 (inferred).
    """

    sizes: tuple[tuple[str, tuple[int, ...]], ...] = (("transformer", _POWERS[1:6]), ("mlp", _POWERS[1:8]))
    log2_tasks: tuple[int, ...] = tuple(range(0, 17, 2))
    chances: tuple[float, ...] = (0.0, 1.0)

    axes = ("permute", "model", "size", "num_tasks", "seed")
    takes = ("permute",)
    scales = {
        "smoke": dict(together=3, sizes=_SMALLEST, log2_tasks=(0, 2, 10), chances=(0.0,), overrides=SMOKE),
        "laptop": dict(together=9),
        "paper": dict(together=7, configs="paper", sizes=_ALL, log2_tasks=tuple(range(26))),
    }

    def table(self) -> Grid:
        return {
            (permute, model, size, 2**power): (
                f"experiments/{self.configs}/{model}",
                f"--model.width={size}",
                f"--tasks.num_tasks={2**power}",
                f"--tasks.permute_labels_prob={permute}",
            )
            for permute in self.chances
            for model, sizes in self.sizes
            for size in sizes
            for power in self.log2_tasks
        }

    def score(self, trained: Member) -> list[Row]:
        (dataset,) = trained.config.data.train
        return [ends(trained.seen(), tasks="seen"), ends(trained.unseen(dataset), tasks="unseen")]

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns for each size the largest number of tasks with seen tasks 20 points above unseen ones (memorisation), and the
        smallest with half of the best gain on unseen tasks, if that is above 10 points (transition).
        """
        lines = []
        for (permute, model, size), rows in frame.groupby(["permute", "model", "size"], sort=False):
            table = rows.pivot_table(index="num_tasks", columns="tasks", values="last", aggfunc="mean")
            memorised = table.index[table.seen - table.unseen > 0.2]
            unseen = table.unseen
            floor, best = unseen.iloc[0], unseen.max()
            half = unseen.index[unseen > (floor + best) / 2].min() if best > floor + 0.1 else None
            until = f"2^{np.log2(memorised.max()):.0f}" if len(memorised) else "none"
            lines.append([f"{permute:g}", model, size, until, f"{best:.3f}", f"2^{np.log2(half):.0f}" if half else "–"])
        names = ["labels permuted", "model", "size", "seen 20 points above unseen up to"]
        return markdown([*names, "unseen: best", "half of its gain from"], lines)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws a panel for each model and kind of task, a row for each setting of the labels, and the paper's maps below.

        It draws means over seeds. The paper leaves out the MLP on unseen tasks.
        """
        maps = [(f"{self.scale}: {_LABELS.get(value, value)}", rows) for value, rows in frame.groupby("permute")]
        theirs = paper_table("heatmap").rename(columns={"model_size": "size", "accuracy": "last"})
        maps.append(("the paper (14×14; labels as they are, inferred)", theirs))
        figure = Figure(figsize=(11.5, 2.9 * len(maps) + 0.3))
        grid = figure.subplots(len(maps), 4, squeeze=False)
        image = None
        for row_of_panels, (title, rows) in zip(grid, maps, strict=True):
            for axes, (model, tasks) in zip(row_of_panels, _PANELS, strict=True):
                axes.set_title(f"{'Transformer' if model == 'transformer' else 'MLP'}, {tasks} tasks")
                image = _map(axes, rows[(rows.model == model) & (rows.tasks == tasks)].dropna(subset=["last"])) or image
            row_of_panels[0].set_ylabel(f"{title}\n\nnumber of tasks")
        for axes in grid[-1]:
            axes.set_xlabel("width of the model")
        figure.colorbar(
            image, ax=grid, label="accuracy over the last tenth of an episode (in the cells: percent)", shrink=0.6, pad=0.01
        )
        return figure


def _map(axes: Axes, rows: pd.DataFrame):
    if rows.empty:
        axes.text(0.5, 0.5, "not in the paper", ha="center", va="center", transform=axes.transAxes, color="grey")
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
