"""`gpicl experiment transition`: the paper's figure 4."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.experiments.engine import SMOKE, Cell, Experiment, Grid, Member, Row, ends, markdown
from gpicl_jax.figures.style import THIN, marks
from gpicl_jax.paper import paper_table
from gpicl_jax.registry import register

_UNPERMUTED = "--tasks.permute_labels_prob=0.0"  # labels as in the paper's own curve (inferred)


@register("transition")
class Transition(Experiment):
    """Accuracy gained within an episode against the number of tasks.

    Attributes:
      learner: name of the config.
      log2_tasks: numbers of tasks, as powers of 2.
      datasets: one base dataset that meta-training never saw.
    """

    learner: str = "transformer"
    log2_tasks: tuple[float, ...] = ()
    seeds: int = 8
    datasets: tuple[str, ...] = ("fashion_mnist",)

    axes = ("num_tasks", "seed")
    scales = {
        "smoke": dict(seeds=2, together=2, log2_tasks=(0, 10), datasets=("random",), overrides=(*SMOKE, "--model.width=8")),
        "laptop": dict(together=14, log2_tasks=(2, 6, 6.5, 7, 7.5, 8, 12), overrides=("--model.width=16", _UNPERMUTED)),
        "paper": dict(together=10, configs="paper", log2_tasks=tuple(range(26)), overrides=(_UNPERMUTED,)),
    }

    def table(self) -> Grid:
        config = f"experiments/{self.configs}/{self.learner}"
        return {(number,): (config, f"--tasks.num_tasks={number}") for number in (round(2**each) for each in self.log2_tasks)}

    def cells(self) -> list[Cell]:
        """Returns the cells in an order in which they share one program, as far as memory allows."""
        return sorted(super().cells(), key=lambda cell: cell.axes["seed"])

    def score(self, trained: Member) -> list[Row]:
        (dataset,) = trained.config.data.train
        unseen = [ends(trained.unseen(each), tasks="unseen", dataset=each) for each in (dataset, *self.datasets)]
        return [ends(trained.seen(), tasks="seen", dataset=dataset), *unseen]

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns how many seeds learn to learn: those that gain more than half of the best mean gain in an unseen episode."""
        frame, table = _with_gains(frame), []
        kinds = frame.kind.unique()  # seen, unseen, unseen of the other dataset
        half = frame[frame.kind == kinds[1]].groupby("num_tasks").gain.mean().max() / 2
        for num_tasks, rows in frame.groupby("num_tasks"):
            gains = [rows[rows.kind == kind].gain for kind in kinds]
            told = [f"{gain.mean():.3f} ({gain.min():.3f}–{gain.max():.3f})" for gain in gains]
            table.append([num_tasks, *told, f"{(gains[1] > half).sum()} of {len(gains[1])}"])
        names = ["tasks", "seen: gain", "unseen: gain", "unseen, other dataset: gain", "seeds above half of the best gain"]
        return markdown(names, table)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws a mark for each seed and a line through the means, and the paper's curves below."""
        figure = Figure(figsize=(7.5, 6.4))
        ours, theirs = figure.subplots(2, 1, sharex=True, sharey=True)
        frame = _with_gains(frame)
        side_by_side = 1 + 0.06 * (pd.factorize(frame.kind)[0] - 1)
        marks(ours, frame.assign(num_tasks=frame.num_tasks * side_by_side), "num_tasks", "gain", "kind", line=True)
        paper = paper_table("transition").query("source == 'paper'")
        paper = paper.assign(evaluation=paper.evaluation.str.replace("_", " tasks, ", n=1))
        marks(theirs, paper, "num_tasks", "accuracy_improvement", "evaluation", line=True)
        every = f"every seed of {frame.seed.nunique()}, kinds side by side; lines join the means of what was measured"
        titles = f"{self.scale}: {every}", "the paper (14×14), digitised"
        for axes, title in zip((ours, theirs), titles, strict=True):
            axes.set_xscale("log", base=2)
            axes.set(title=title, xlabel="number of tasks in meta-training", ylabel="accuracy, last tenth − first")
            axes.set_ylim(min(-0.1, axes.get_ylim()[0]), 0.75)
            axes.axhline(0, **THIN)
            axes.legend(loc="upper left")
        return figure


def _with_gains(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(gain=frame["last"] - frame["first"], kind=frame.tasks + " tasks, " + frame.dataset)
