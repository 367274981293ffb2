"""`gpicl experiment learning-curves`: the paper's figure 4. `context_query` also gets contexts longer than in training."""

import itertools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpicl_jax.experiments.engine import MANY_TASKS, SMOKE, Experiment, Grid, Member, Row, markdown, mean_and_deviation
from gpicl_jax.figures.style import COLORS, THIN, finished, panels
from gpicl_jax.paper import paper_learning_curve
from gpicl_jax.registry import register

_LONGER = 4  # times the trained length
_LINES = {"transformer": "-", "context_query": "--"}


@register("learning-curves")
class LearningCurves(Experiment):
    """Accuracy at each position, trained on one dataset, tested on another.

    Attributes:
      datasets: one after the other is trained on, and all are tested on.
    """

    datasets: tuple[str, ...] = ("mnist", "fashion_mnist")

    axes = ("learner", "trained_on", "seed")
    scales = {
        "smoke": dict(together=4, datasets=("digits", "random"), overrides=(*SMOKE, "--model.width=8")),
        "laptop": dict(seeds=4, together=4),
        "paper": dict(seeds=8, together=8, configs="paper"),
    }

    def table(self) -> Grid:
        return {
            (learner, dataset): (f"experiments/{self.configs}/{learner}", MANY_TASKS, f"--data.train={dataset}")
            for learner in _LINES
            for dataset in self.datasets
        }

    def score(self, trained: Member) -> list[Row]:
        length = trained.config.tasks.length
        lengths = (length, _LONGER * length) if trained.learner.cuts(length) else (length,)
        rows = []
        for dataset, each in itertools.product(self.datasets, lengths):
            scores = trained.unseen(dataset, length=each)
            for position in range(each):
                accuracy, error = scores.accuracy(slice(position, position + 1))
                if not np.isnan(accuracy):
                    about = {"dataset": dataset, "length": each, "position": position}
                    rows.append({**about, "accuracy": accuracy, "standard_error": error, "episodes": scores.episodes})
        return rows

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns accuracy at the last position of each length, mean over seeds ± standard deviation."""
        last = frame[frame.position == frame.length - 1].groupby(["learner", "trained_on", "dataset", "position"], sort=False)
        table = [
            [*names, f"{position:.0f}", f"{mean_and_deviation(values)} ({len(values)} seed{'s' if len(values) > 1 else ''})"]
            for (*names, position), values in last.accuracy
        ]
        return markdown(["learner", "meta-trained on", "tested on", "examples seen", "accuracy at that position"], table)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws a panel for each test dataset, a colour for each training set, a line for each learner, bands over seeds.

        Only the longest of several lengths is drawn.
        """
        datasets = frame.dataset.unique()
        figure, axes_of = panels(datasets, 4.6 * len(datasets), 4.2)
        for dataset, axes in axes_of.items():
            _panel(axes, frame[frame.dataset == dataset], dataset)
            axes.axvline(frame.length.min(), **THIN, label="longest episode of training")
            axes.set(title=f"tested on {dataset}", xlabel="examples seen + 1", ylim=(0, 1), xscale="log")
        figure.axes[0].set_ylabel("accuracy, unseen tasks")
        return finished(figure, 2, f"{self.scale}: mean, smallest and largest of the seeds")


def _panel(axes: Axes, frame: pd.DataFrame, dataset: str) -> None:
    trained = dict(zip(frame.trained_on.unique(), COLORS, strict=False))
    for learner, of_learner in frame.groupby("learner", sort=False):
        for name, color in trained.items():
            rows = of_learner[of_learner.trained_on == name]
            curve = rows[rows.length == rows.length.max()].groupby("position").accuracy.agg(["mean", "min", "max"])
            style = {"color": color, "label": f"{learner}, trained on {name}", "linewidth": 1.4}
            axes.plot(curve.index + 1, curve["mean"], _LINES[learner], **style)
            axes.fill_between(curve.index + 1, curve["min"], curve["max"], color=color, alpha=0.15, linewidth=0)
    for name, color in trained.items():
        paper = paper_learning_curve((name,), dataset)
        if len(paper):
            axes.plot(paper.position + 1, paper.accuracy, "x", color=color, label=f"the paper (14×14), trained on {name}")
