"""`gpicl experiment context-size`."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.experiments.engine import SMOKE, Experiment, Grid, Member, Row, ends, markdown, mean_and_deviation
from gpicl_jax.experiments.symmetries import SMALL
from gpicl_jax.figures.style import COLORS, MARKERS, finished, panels
from gpicl_jax.registry import register

_LAPTOP = (*SMALL, "--train.steps=1500", "--train.validate_every=1500", "--eval.episodes=256")
_SETS = ("mnist", "fashion_mnist")


@register("context-size")
class ContextSize(Experiment):
    """Contexts as long as those of meta-training, and ten times as long.

    Attributes:
      lengths: of the episodes of meta-training, whose contexts are of all sizes below.
      contexts: sizes to test.
      queries: of an episode, after its context.
    """

    lengths: tuple[int, ...] = (100,)
    contexts: tuple[int, ...] = (20, 50, 100, 200, 500, 1000)
    queries: int = 100

    axes = ("length", "seed")
    scales = {
        "smoke": dict(
            lengths=(20,),
            contexts=(5, 50),
            queries=10,
            datasets=("digits",),
            overrides=(*SMALL, *SMOKE, "--optimizer.warmup_steps=10"),
        ),
        "laptop": dict(seeds=3, together=3, datasets=_SETS, overrides=_LAPTOP),
        "paper": dict(seeds=3, together=3, lengths=(100, 400), datasets=_SETS, overrides=(*SMALL, "--train.steps=20000")),
    }

    def table(self) -> Grid:
        """The seeds of a length share a program."""
        return {(length,): ("experiments/laptop/equivariant", f"--tasks.length={length}") for length in self.lengths}

    def score(self, trained: Member) -> list[Row]:
        """A row for each dataset and context; accuracy is that of all queries."""
        return [
            ends(
                trained.unseen(dataset, length=size + self.queries, num_context=size),
                tasks="unseen",
                dataset=dataset,
                context=size,
            )
            for dataset in self.datasets
            for size in self.contexts
        ]

    def summary(self, frame: pd.DataFrame) -> str:
        """Accuracy of the queries, mean over seeds ± standard deviation."""
        frame = frame.dropna(subset=["last"])
        sizes = sorted(frame.context.unique())
        rows = [
            (f"{length:.0f}", dataset, *(mean_and_deviation(part[part.context == size]["last"]) for size in sizes))
            for (length, dataset), part in frame.groupby(["length", "dataset"], sort=False)
        ]
        return markdown(["episodes of", "dataset", *(f"{size:.0f}" for size in sizes)], rows)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """A panel for each dataset, a color for each length of meta-training: every seed a mark, their mean a line."""
        frame = frame.dropna(subset=["last"])
        datasets = frame.dataset.unique()
        figure, axes_of = panels(datasets, 4.2 * len(datasets), 3.6)
        for dataset, axes in axes_of.items():
            for number, (length, rows) in enumerate(frame[frame.dataset == dataset].groupby("length")):
                label = f"meta-trained with up to {length - 1:.0f}"
                mean = rows.groupby("context")["last"].mean()
                axes.plot(mean.index, mean, color=COLORS[number], linewidth=1)
                axes.scatter(rows.context, rows["last"], s=18, color=COLORS[number], marker=MARKERS[number], label=label)
                axes.axvline(length - 1, color=COLORS[number], linewidth=1, linestyle=":")
            axes.set(title=dataset, xlabel="examples in the context", xscale="log")
        figure.axes[0].set_ylabel("accuracy of queries, unseen tasks")
        return finished(figure, 4, f"{self.scale}: the size of the context")
