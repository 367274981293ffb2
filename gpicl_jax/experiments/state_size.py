"""`gpicl experiment state-size`."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from gpicl_jax.experiments.comparison_rows import BESIDE, curriculum
from gpicl_jax.experiments.engine import MANY_TASKS, SMOKE, Experiment, Grid, Member, Row, ends, markdown, mean_and_deviation
from gpicl_jax.figures.style import finished, marks, panels
from gpicl_jax.registry import register
from gpicl_jax.training.step import num_params

# Row of the comparison, whose config it takes: what makes each of its sizes, in the `[model]` section.
SIZES: dict[str, tuple[dict[str, int], ...]] = {
    "transformer": (
        {"num_heads": 1, "head_size": 4},
        {"num_heads": 1, "head_size": 16},
        {"num_heads": 2, "head_size": 64},
    ),
    "lstm": ({"width": 32}, {"width": 128}, {"width": 512}),
    "outer_product_lstm": (
        {"width": 64, "num_heads": 1, "head_size": 8},
        {"width": 64, "num_heads": 2, "head_size": 32},
        {"width": 64, "num_heads": 1, "head_size": 96},
    ),
    "fast_weights": ({"memory_size": 4}, {"memory_size": 16}),
    "vsml_without_symmetries": ({"grid_size": 2}, {"grid_size": 4}),
}
# With a curriculum all rows learn.
LEARNING: dict[str, tuple[dict[str, int], ...]] = {
    "transformer_paper": (
        {"num_heads": 1, "head_size": 16},
        {"num_heads": 4, "head_size": 16},
        {"num_heads": 4, "head_size": 64},
    ),
    "transformer": SIZES["transformer"],
    "lstm": ({"width": 64}, {"width": 128}, {"width": 256}),
    "outer_product_lstm": (
        {"width": 64, "num_heads": 1, "head_size": 16},
        {"width": 64, "num_heads": 2, "head_size": 32},
        {"width": 64, "num_heads": 1, "head_size": 64},
    ),
    "fast_weights": ({"memory_size": 8}, {"memory_size": 16}, {"memory_size": 24}),
}
_ALIKE = ("--tasks.tasks_per_step=32",)  # all rows see as many episodes
_SMOKE = tuple((name, SIZES[name][:1]) for name in ("transformer", "lstm"))
_STEPS = ("--train.steps=2000", "--train.chunk=50", "--train.validate_every=500", "--tasks.length=50", "--eval.episodes=1024")


@register("state-size")
class StateSize(Experiment):
    """Accuracy on unseen tasks against state size and number of parameters.

    Attributes:
      sizes: sizes of each row of the comparison.
      curriculum: whether meta-training begins with recall, as in the comparison.
    """

    sizes: tuple[tuple[str, Any], ...] = tuple(SIZES.items())
    curriculum: bool = False

    axes = ("learner", "size", "seed")
    scales = {
        "smoke": dict(together=4, sizes=_SMOKE, overrides=(MANY_TASKS, *SMOKE)),
        "laptop": dict(seeds=2, together=2, overrides=(MANY_TASKS, *_STEPS)),
        "curriculum": dict(
            **dict(seeds=3, together=3, sizes=tuple(LEARNING.items()), curriculum=True),
            overrides=(MANY_TASKS, *_STEPS, "--train.steps=10000"),
        ),
        "paper": dict(seeds=3, together=3, configs="paper", overrides=(MANY_TASKS,)),
    }

    def table(self) -> Grid:
        return {
            (learner, ", ".join(f"{name} {value}" for name, value in size.items())): (
                f"comparison/{self.configs}/{learner}",
                *(f"--model.{name}={value}" for name, value in size.items()),
                *((*BESIDE.get(learner, ()), *_ALIKE, *curriculum(learner)) if self.curriculum else ()),
            )
            for learner, sizes in self.sizes
            for size in sizes
        }

    def score(self, trained: Member) -> list[Row]:
        state = trained.learner.state_size(trained.config.tasks.length)
        sizes = {"state_size": state, "num_params": num_params(trained.params)}
        return [sizes | ends(trained.unseen(trained.config.data.train[0]), tasks="unseen")]

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns sizes and accuracy, mean over seeds ± standard deviation, and rank correlations of three means or more."""
        by_size = frame.groupby(["learner", "size", "state_size", "num_params"], sort=False)["last"]
        rows = [
            (learner, size, f"{state:,.0f}", f"{params:,.0f}", mean_and_deviation(values), len(values))
            for (learner, size, state, params), values in by_size
        ]
        table = markdown(["learner", "size", "state", "parameters", "accuracy, last tenth", "seeds"], rows)
        if len(rows) < 3:
            return table
        means = by_size.mean().reset_index().dropna()
        state, params = (_told(*correlation(means[name], means["last"])) for name in ("state_size", "num_params"))
        return (
            f"{table}\n\nRank correlation of the accuracy over {len(rows)} sizes, and its 95% interval over them as if they "
            f"were independent, which sizes of one learner are not: with the state {state}, with the number of parameters "
            f"{params}."
        )

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws two panels with the same accuracies. A mark is a seed."""
        frame = frame.assign(learner=frame.learner.str.replace("_", " "))
        figure, axes_of = panels(["state_size", "num_params"], 9, 3.8)
        for (column, axes), name in zip(axes_of.items(), ("numbers in the state", "parameters"), strict=True):
            marks(axes, frame, column, "last", "learner")
            axes.set(xscale="log", xlabel=name)
        figure.axes[0].set_ylabel("accuracy over the last tenth, unseen tasks")
        return finished(figure, 5, f"{self.scale}: accuracy and size")


def correlation(sizes: pd.Series, accuracies: pd.Series) -> tuple[float, float, float]:
    """Returns Spearman's rank correlation, and the 95% interval of a bootstrap over pairs (percentiles of 10,000 draws).

    Example:
      >>> correlation(pd.Series([1.0, 2.0, 3.0]), pd.Series([0.1, 0.2, 0.4]))[0]
      1.0
    """
    found, rng = [], np.random.default_rng(0)
    for draw in rng.integers(len(sizes), size=(10_000, len(sizes))):
        ranks = [stats.rankdata(values.to_numpy()[draw]) for values in (sizes, accuracies)]
        if all(np.ptp(each) for each in ranks):  # a draw of equal pairs has none
            found.append(np.corrcoef(ranks)[0, 1])
    low, high = np.percentile(found or [np.nan], [2.5, 97.5])
    return float(stats.spearmanr(sizes, accuracies).statistic), float(low), float(high)


def _told(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
