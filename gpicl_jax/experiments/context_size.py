"""`gpicl experiment context-size`."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.experiments.engine import SMOKE, Experiment, Grid, Member, Row, ends, markdown, mean_and_deviation
from gpicl_jax.experiments.symmetries import SMALL
from gpicl_jax.figures.style import COLORS, finished, marks, panels
from gpicl_jax.registry import register

_SMOKE = (*SMALL, *SMOKE, "--optimizer.warmup_steps=10")
_LAPTOP = (*SMALL, "--train.steps=1500", "--train.validate_every=1500", "--eval.episodes=256")


@register("context-size")
class ContextSize(Experiment):
    """Contexts as long as those of meta-training, and ten times as long.

    Attributes:
      lengths: lengths of the episodes of meta-training, whose contexts have all smaller sizes.
      contexts: sizes to test.
      queries: queries after each context.
    """

    lengths: tuple[int, ...] = (100,)
    contexts: tuple[int, ...] = (20, 50, 100, 200, 500, 1000)
    queries: int = 100
    datasets: tuple[str, ...] = ("mnist", "fashion_mnist")

    axes = ("length", "seed")
    scales = {
        "smoke": dict(lengths=(20,), contexts=(5, 50), queries=10, datasets=("digits",), overrides=_SMOKE),
        "laptop": dict(seeds=3, together=3, overrides=_LAPTOP),
        "paper": dict(seeds=3, together=3, lengths=(100, 400), overrides=(*SMALL, "--train.steps=20000")),
    }

    def table(self) -> Grid:
        return {(length,): ("experiments/laptop/equivariant", f"--tasks.length={length}") for length in self.lengths}

    def score(self, trained: Member) -> list[Row]:
        return [
            ends(trained.unseen(name, length=size + self.queries, num_context=size), tasks="unseen", dataset=name, context=size)
            for name in self.datasets
            for size in self.contexts
        ]

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns the accuracy of the queries, mean over seeds ± standard deviation."""
        by = ["length", "dataset", "context"]
        table = frame.groupby(by, sort=False)["last"].agg(mean_and_deviation).unstack(sort=False)
        return markdown(["episodes of", "dataset", *(f"{size:.0f}" for size in table.columns)], table.reset_index().to_numpy())

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws a panel for each dataset and a color for each length of meta-training. A mark is a seed, a line the mean."""
        datasets = frame.dataset.unique()
        figure, axes_of = panels(datasets, 4.2 * len(datasets), 3.6)
        for dataset, axes in axes_of.items():
            rows = frame[frame.dataset == dataset]
            marks(axes, rows, "context", "last", "length", "meta-trained in episodes of {}", line=True)
            for number, length in enumerate(rows.length.unique()):
                axes.axvline(length - 1, color=COLORS[number], linewidth=1, linestyle=":")
            axes.set(title=dataset, xlabel="examples in the context", xscale="log")
        figure.axes[0].set_ylabel("accuracy of queries, unseen tasks")
        return finished(figure, 4, f"{self.scale}: the size of the context")
