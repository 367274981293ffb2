"""`gpicl experiment features`: on features that the user brings.

The paper meta-trains on a ResNet's features of MNIST, and gets about 45% on CIFAR-10 (arXiv 2212.04458).
"""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.experiments.engine import MANY_TASKS, SMOKE, Experiment, Grid
from gpicl_jax.figures.style import finished, marks, panels, top_down
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError
from gpicl_jax.tasks.sources.images import load


@register("features")
class Features(Experiment):
    """Learning in context in the feature space of a frozen network.

    Attributes:
      datasets: .npz files with `features` and `labels`. The first is trained on, and all are tested on.
    """

    axes = ("seed",)
    takes = ("datasets",)
    scales = {
        "smoke": dict(overrides=(*SMOKE, "--model.width=8")),
        "laptop": dict(seeds=3, together=3),
        "paper": dict(seeds=3, together=3, configs="paper"),
    }

    def table(self) -> Grid:
        if not self.datasets:
            raise UserError(
                "experiment features needs --datasets TRAIN.npz [OTHER.npz …], files with arrays 'features' and 'labels'"
            )
        train = self.datasets[0]
        data = (f"--data.train={train}", f"--data.features={load(train, 'train').num_features}")
        return {(): (f"experiments/{self.configs}/transformer", *data, MANY_TASKS)}

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws the first example and the last tenth of an episode for each file of features. A mark is a seed."""
        figure, axes_of = panels([f"{self.scale}: trained on {frame.dataset[0]}"], 6.5, 0.5 * frame.dataset.nunique() + 1.6)
        ends = frame.melt("dataset", ["first", "last"]).replace({"first": "first example", "last": "last tenth"})
        for title, axes in axes_of.items():
            marks(axes, ends, "value", "dataset", "variable")
            axes.set(title=title, xlim=(0, 1), xlabel="accuracy, unseen tasks")
        top_down(figure)
        return finished(figure, 2)
