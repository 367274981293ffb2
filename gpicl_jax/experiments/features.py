"""`gpicl experiment features`: the user brings the features.

The paper's: a ResNet, meta-trained on MNIST's features, about 45% on CIFAR-10 (arXiv 2212.04458).
"""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.experiments.engine import MANY_TASKS, SMOKE, Experiment, Grid, Member, Row, ends, markdown
from gpicl_jax.experiments.engine.words import mean_and_deviation
from gpicl_jax.figures.style import COLORS
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.sources.images import load


@register("features")
class Features(Experiment):
    """Learning in context in the feature space of a frozen network.

    Attributes:
      datasets: .npz files with `features` and `labels`: the first is trained on, all are tested on.
    """

    axes = ("seed",)
    takes = ("datasets",)
    scales = {
        "smoke": dict(overrides=(*SMOKE, "--model.width=8")),
        "laptop": dict(seeds=3, together=3),
        "paper": dict(seeds=3, together=3, configs="paper"),
    }

    def table(self) -> Grid:
        """One for each seed."""
        if not self.datasets:
            raise UserError(
                "experiment features needs --datasets TRAIN.npz [OTHER.npz …], files with arrays 'features' and 'labels'"
            )
        train = self.datasets[0]
        data = (f"--data.train={train}", f"--data.features={load(train, 'train').num_features}")
        return {(): (f"experiments/{self.configs}/transformer", *data, MANY_TASKS)}

    def score(self, trained: Member) -> list[Row]:
        """Unseen tasks, test rows of every file."""
        return [ends(trained.unseen(dataset), tasks="unseen", dataset=dataset.split("/")[-1]) for dataset in self.datasets]

    def summary(self, frame: pd.DataFrame) -> str:
        """Accuracy of every file, and loss over the episode in nats; means over seeds ± standard deviation."""
        table = []
        for dataset, rows in frame.dropna(subset=["last"]).groupby("dataset", sort=False):
            found = (f"{rows['first'].mean():.3f}", mean_and_deviation(rows["last"]), mean_and_deviation(rows["loss"]))
            table.append([dataset, *found, len(rows)])
        return markdown(["features", "accuracy, first example", "accuracy, last tenth", "loss, nats", "seeds"], table)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Every seed a mark, for each file of features: the first example and the last tenth of an episode."""
        frame = frame.dropna(subset=["last"])
        names = list(frame.dataset.unique())
        figure = Figure(figsize=(6.5, 0.5 * len(names) + 1.6))
        axes = figure.subplots()
        heights = [names.index(name) for name in frame.dataset]
        for number, (column, label) in enumerate((("first", "first example"), ("last", "last tenth"))):
            axes.plot(frame[column], heights, "os"[number], color=COLORS[number], alpha=0.7, label=label)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="accuracy, unseen tasks")
        axes.set_title(f"{self.scale}: trained on {names[0]}")
        axes.legend()
        return figure
