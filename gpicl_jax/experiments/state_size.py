"""`gpicl experiment state-size`."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

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
_SMOKE = tuple((name, SIZES[name][:1]) for name in ("transformer", "lstm"))
_STEPS = ("--train.steps=2000", "--train.chunk=50", "--train.validate_every=500", "--tasks.length=50", "--eval.episodes=1024")


@register("state-size")
class StateSize(Experiment):
    """Accuracy on unseen tasks against state size and number of parameters."""

    sizes: tuple[tuple[str, Any], ...] = tuple(SIZES.items())

    axes = ("learner", "size", "seed")
    scales = {
        "smoke": dict(together=4, sizes=_SMOKE, overrides=(MANY_TASKS, *SMOKE)),
        "laptop": dict(seeds=2, together=2, overrides=(MANY_TASKS, *_STEPS)),
        "paper": dict(seeds=3, together=3, configs="paper", overrides=(MANY_TASKS,)),
    }

    def table(self) -> Grid:
        return {
            (learner, ", ".join(f"{name} {value}" for name, value in size.items())): (
                f"comparison/{self.configs}/{learner}",
                *(f"--model.{name}={value}" for name, value in size.items()),
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
        ranks = by_size.mean().reset_index()[["state_size", "num_params", "last"]].rank().corr()["last"]
        return (
            f"{table}\n\nRank correlation of the accuracy over {len(rows)} sizes: with the state {ranks.state_size:.2f}, "
            f"with the number of parameters {ranks.num_params:.2f}."
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
