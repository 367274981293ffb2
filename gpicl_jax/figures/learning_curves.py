"""The learning curves of one run."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpicl_jax.figures.style import finished, styled
from gpicl_jax.paper import paper_learning_curve

_LABELS = {
    "unseen_tasks": "unseen tasks",
    "unseen_tasks_permuted": "unseen tasks, labels always permuted",
    "unseen_tasks_train_images": "unseen tasks, training images",
    "seen_tasks": "seen tasks",
    "identity_tasks": "no projection",
}
_STYLES = ("-", "--", ":")


@styled
def learning_curves(frame: pd.DataFrame, *, learner: str, train: tuple[str, ...], chance: dict[str, float]) -> Figure:
    """Draws accuracy against examples seen, one panel for each dataset, with 95% intervals.

    Args:
      frame: rows of `evaluation.COLUMNS`. The other solvers on unseen tasks are drawn in black.
      learner: the value of `solver` that is drawn in colour.
      train: base datasets of meta-training. The paper's points for them are crosses.
      chance: accuracy of a guess, by dataset.
    """
    columns = min(3, len(chance))
    rows = math.ceil(len(chance) / columns)
    figure = Figure(figsize=(7, 4.5) if len(chance) == 1 else (4.2 * columns, 3.2 * rows))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for (dataset, guess), axes in zip(chance.items(), panels, strict=False):
        _panel(axes, frame[frame.dataset == dataset], learner, paper_learning_curve(train, dataset))
        axes.axhline(guess, color="grey", linestyle=(0, (1, 3)), label="chance")
        axes.set(title=dataset, xlabel="examples seen in the episode", ylabel="accuracy", ylim=(0, 1))
    for axes in figure.axes[len(chance) :]:
        axes.remove()
    return finished(figure, 3, f"Learning within an episode, meta-trained on {' + '.join(train)}")


def _panel(axes: Axes, frame: pd.DataFrame, learner: str, paper: pd.DataFrame) -> None:
    for number, (tasks, label) in enumerate(_LABELS.items()):
        rows = frame[(frame.tasks == tasks) & (frame.solver == learner)].sort_values("position")
        if rows.empty:
            continue
        color = f"C{number}"
        axes.plot(rows.position, rows.accuracy, color=color, label=f"{learner}: {label}", linewidth=1.6)
        margin = 1.96 * rows.standard_error  # NaN for a single task: no band
        axes.fill_between(rows.position, rows.accuracy - margin, rows.accuracy + margin, color=color, alpha=0.2, linewidth=0)
    others = frame[(frame.solver != learner) & (frame.tasks == "unseen_tasks")]
    for style, (solver, rows) in zip(_STYLES, others.groupby("solver", sort=False), strict=False):
        rows = rows.sort_values("position")
        axes.plot(rows.position, rows.accuracy, style, color="black", linewidth=0.9, label=f"{solver}: unseen tasks")
    if len(paper):
        axes.plot(paper.position, paper.accuracy, "x", color="C3", markersize=6, label="the paper's Transformer: unseen tasks")
