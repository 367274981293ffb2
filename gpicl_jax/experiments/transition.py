"""`gpicl experiment transition`: the paper's figure 4."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.experiments.engine import SMOKE, Cell, Experiment, Grid, Member, Row, ends, markdown
from gpicl_jax.figures.style import COLORS, MARKERS, THIN
from gpicl_jax.paper import paper_transition
from gpicl_jax.registry import register

_UNPERMUTED = "--tasks.permute_labels_prob=0.0"  # labels as in the paper's own curve (inferred)


@register("transition")
class Transition(Experiment):
    """Accuracy gained within an episode against the number of tasks.

    Attributes:
      learner: name of the config.
      log2_tasks: numbers of tasks.
      datasets: one, of unseen tasks that meta-training never saw.
    """

    learner: str = "transformer"
    log2_tasks: tuple[float, ...] = ()

    axes = ("num_tasks", "seed")
    scales = {
        "smoke": dict(seeds=2, together=2, log2_tasks=(0, 10), datasets=("random",), overrides=(*SMOKE, "--model.width=8")),
        "laptop": dict(
            seeds=8,
            together=14,
            log2_tasks=(2, 6, 6.5, 7, 7.5, 8, 12),
            datasets=("fashion_mnist",),
            overrides=("--model.width=16", _UNPERMUTED),
        ),
        "paper": dict(
            seeds=8,
            together=26,
            configs="paper",
            log2_tasks=tuple(range(26)),
            datasets=("fashion_mnist",),
            overrides=(_UNPERMUTED,),
        ),
    }

    def table(self) -> Grid:
        config = f"experiments/{self.configs}/{self.learner}"
        return {(number,): (config, f"--tasks.num_tasks={number}") for number in (round(2**each) for each in self.log2_tasks)}

    def cells(self) -> list[Cell]:
        """They share one program, but for what is too much at once."""
        return sorted(super().cells(), key=lambda cell: cell.axes["seed"])

    def score(self, trained: Member) -> list[Row]:
        """Seen tasks, unseen tasks, unseen tasks of another dataset."""
        (dataset,) = trained.config.data.train
        unseen = [ends(trained.unseen(each), tasks="unseen", dataset=each) for each in (dataset, *self.datasets)]
        return [ends(trained.seen(), tasks="seen", dataset=dataset), *unseen]

    def summary(self, frame: pd.DataFrame) -> str:
        """Seeds on each side: those that gain more than half of the best mean gain of an episode of unseen tasks."""
        frame = frame.dropna(subset=["last"]).assign(gain=lambda rows: rows["last"] - rows["first"])
        trained_on = frame[frame.tasks == "seen"].dataset.iloc[0]
        other = next(each for each in frame.dataset.unique() if each != trained_on)
        kinds = [("seen", trained_on), ("unseen", trained_on), ("unseen", other)]
        by_kind = [frame[(frame.tasks == tasks) & (frame.dataset == dataset)] for tasks, dataset in kinds]
        half = by_kind[1].groupby("num_tasks").gain.mean().max() / 2
        table = []
        for num_tasks in sorted(frame.num_tasks.unique()):
            gains = [rows[rows.num_tasks == num_tasks].gain for rows in by_kind]
            told = [f"{gain.mean():.3f} ({gain.min():.3f}–{gain.max():.3f})" for gain in gains]
            table.append([num_tasks, *told, f"{(gains[1] > half).sum()} of {len(gains[1])}"])
        names = ["tasks", "seen: gain", "unseen: gain", "unseen, other dataset: gain", "seeds above half of the best gain"]
        return markdown(names, table)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Every seed a mark, their mean a line; the paper's curves below."""
        figure = Figure(figsize=(7.5, 6.4))
        ours, theirs = figure.subplots(2, 1, sharey=True)
        frame = frame.dropna(subset=["last"])
        for number, ((tasks, dataset), rows) in enumerate(frame.groupby(["tasks", "dataset"], sort=False)):
            gain = (rows["last"] - rows["first"]).to_numpy()
            spread = 1 + 0.06 * (number - 1)  # side by side
            style = {"color": COLORS[number], "marker": MARKERS[number]}
            ours.scatter(rows.num_tasks * spread, gain, s=16, alpha=0.55, linewidths=0, **style)
            mean = rows.assign(gain=gain).groupby("num_tasks").gain.mean()
            ours.plot(mean.index * spread, mean, markersize=3, label=f"{tasks} tasks, {dataset}", **style)
        ours.set_title(f"{self.scale}: every seed of {frame.seed.nunique()}, and their mean")
        paper = paper_transition()
        for number, (evaluation, rows) in enumerate(paper[paper.source == "paper"].groupby("evaluation", sort=False)):
            rows = rows.sort_values("num_tasks")
            style = {"color": COLORS[number], "marker": MARKERS[number], "markersize": 4}
            label = " tasks, ".join(evaluation.split("_", 1))
            theirs.plot(rows.num_tasks, rows.accuracy_improvement, label=label, **style)
        theirs.set_title("the paper (14×14), digitised")
        for axes in (ours, theirs):
            axes.set_xscale("log", base=2)
            axes.set(xlabel="number of tasks in meta-training", ylabel="accuracy, last tenth − first")
            axes.axhline(0, **THIN)
            axes.legend(loc="upper left")
            axes.set_ylim(min(-0.1, float(np.nanmin([*axes.get_ylim()]))), 0.75)
        return figure
