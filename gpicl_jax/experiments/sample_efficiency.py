"""`gpicl experiment sample-efficiency`."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.config import load_config
from gpicl_jax.experiments.engine import SMOKE, Experiment, Grid, Member, Row, markdown
from gpicl_jax.figures.style import COLORS, MARKERS, finished
from gpicl_jax.registry import register

_MNIST = ("--data.train=mnist", "--data.size=8", "--data.channels=1")
_PLAIN = ("--tasks.entries=normal", "--tasks.clutter=0", "--tasks.feature_scales=0", "--train.chunk=50")
_TRANSFORMER = (*_MNIST, "--model.width=128", "--model.num_layers=3", "--model.num_heads=4")
_PAPERS_TOKENS = ("--model.smear_keys=false", "--model.label_scale=1")
# Of each learner: its config, and the settings that replace it.
LEARNERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "equivariant": ("experiments/laptop/equivariant", (*_MNIST, *_PLAIN)),
    "Transformer": ("digits_transformer", _TRANSFORMER),
    "Transformer, paper's tokens": ("digits_transformer", (*_TRANSFORMER, *_PAPERS_TOKENS)),
}
_PAPER = 25_600_000  # episodes of a run of the paper's table
_FEW = (("equivariant", 640), ("Transformer", 1280))
_LAPTOP = (("equivariant", 96_000), ("Transformer", 166_400), ("Transformer, paper's tokens", 166_400))


@register("sample-efficiency")
class SampleEfficiency(Experiment):
    """Meta-training episodes until validation tasks reach an accuracy.

    Attributes:
      episodes: episodes of meta-training, by learner.
      every: episodes between validations.
      accuracies: accuracies to reach.
    """

    episodes: tuple[tuple[str, int], ...] = _LAPTOP
    every: int = 1600
    accuracies: tuple[float, ...] = (0.70, 0.76, 0.80)

    axes = ("learner", "seed")
    scales = {
        "smoke": dict(episodes=_FEW, every=640, accuracies=(0.5, 0.8), overrides=(*SMOKE, "--optimizer.warmup_steps=10")),
        "laptop": dict(),
        "paper": dict(seeds=3, together=3, episodes=tuple((name, _PAPER) for name in LEARNERS), every=160000),
    }

    def table(self) -> Grid:
        found = {}
        for learner, episodes in self.episodes:
            config, settings = LEARNERS[learner]
            a_step = load_config(config, settings).tasks.tasks_per_step
            steps = (f"--train.steps={episodes // a_step}", f"--train.validate_every={self.every // a_step}")
            found[(learner,)] = (config, *settings, *self.overrides, *steps)  # which replace data.train
        return found

    def score(self, trained: Member) -> list[Row]:
        """Returns a row for each accuracy: the episodes until a validation's last tenth reached it, NaN where none did."""
        tasks, found = trained.config.tasks, [each for each in trained.records if each.get("validation_last") is not None]
        a_step = tasks.tasks_per_step * tasks.sequences_per_task
        rows = []
        for accuracy in self.accuracies:
            reached = [record["step"] for record in found if record["validation_last"] >= accuracy]
            row = {"tasks": "validation", "dataset": trained.config.data.train[0], "accuracy": accuracy}
            row |= {"needed": a_step * reached[0] if reached else float("nan"), "trained": a_step * trained.config.train.steps}
            rows.append(row | {"last": found[-1]["validation_last"]})
        return rows

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns the episodes of each seed. A seed that never reached the accuracy has > and the episodes of the whole run."""
        told = frame.needed.map("{:,.0f}".format).where(frame.needed.notna(), frame.trained.map("> {:,.0f}".format))
        table = frame.assign(told=told).groupby(["learner", "accuracy"], sort=False).told.agg(", ".join).unstack(sort=False)
        last = frame[frame.accuracy == frame.accuracy[0]].groupby("learner", sort=False)["last"]
        table["last"] = last.agg(lambda values: ", ".join(map("{:.3f}".format, values)))
        names = [f"{accuracy:.2f}" for accuracy in table.columns[:-1]]
        return markdown(["learner", *names, "last validation"], table.reset_index().to_numpy())

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws a line for each learner and a marker for each accuracy. An open marker ends a run that did not reach it."""
        learners = list(frame.learner.unique())
        figure = Figure(figsize=(7.5, 0.5 * len(learners) + 1.7))
        axes = figure.subplots()
        for number, (accuracy, rows) in enumerate(frame.groupby("accuracy")):
            heights = pd.Series([-learners.index(name) - 0.15 * number for name in rows.learner], rows.index)
            style = {"color": COLORS[number], "marker": MARKERS[number], "s": 36}
            reached = rows.needed.notna()
            axes.scatter(rows.needed[reached], heights[reached], **style, label=f"{accuracy:.2f} reached")
            if not reached.all():
                label = f"{accuracy:.2f} not reached"
                axes.scatter(rows.trained[~reached], heights[~reached], **style, facecolors="none", label=label)
        axes.axvline(_PAPER, color="black", linewidth=1, linestyle=":", label="the paper's runs")
        axes.set(xscale="log", xlabel="episodes of meta-training", ylim=(-len(learners) + 0.4, 0.4))
        axes.set_yticks([-place - 0.15 for place in range(len(learners))], learners)
        return finished(figure, 4, f"{self.scale}: validation accuracy over the last tenth")
