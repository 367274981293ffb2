"""Tidy DataFrames in, matplotlib figures out; nothing here trains or evaluates."""

import pandas as pd
from matplotlib.figure import Figure

_LABELS = {
    "unseen_tasks": "unseen tasks, held-out images",
    "unseen_tasks_permuted": "unseen tasks, labels always permuted",
    "unseen_tasks_train_images": "unseen tasks, training images",
    "seen_tasks": "seen tasks, held-out images",
    "identity_tasks": "no projection, held-out images",
}


def learning_curves(frame: pd.DataFrame, *, learner: str, num_classes: int) -> Figure:
    """Accuracy against examples seen, with 95% intervals; reference solvers as markers.

    Args:
      frame: rows of `evaluation.COLUMNS`.
      learner: the value of `solver` that is drawn as lines.
      num_classes: chance is 1/num_classes.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained", dpi=120)
    axes = figure.subplots()
    for tasks, label in _LABELS.items():
        rows = frame[(frame.tasks == tasks) & (frame.solver == learner)].sort_values("position")
        if rows.empty:
            continue
        (line,) = axes.plot(rows.position, rows.accuracy, label=f"{learner}: {label}", linewidth=1.6)
        margin = 1.96 * rows.standard_error  # NaN for a single task: no band
        axes.fill_between(
            rows.position, rows.accuracy - margin, rows.accuracy + margin, color=line.get_color(), alpha=0.2, linewidth=0
        )
    markers = iter("os^Dv")
    for solver, rows in frame[frame.solver != learner].groupby("solver"):
        rows = rows.sort_values("position")
        axes.plot(rows.position, rows.accuracy, next(markers), color="black", markersize=3.5, label=solver, alpha=0.7)
    axes.axhline(1 / num_classes, color="grey", linestyle=":", label="chance")
    axes.set(xlabel="examples seen in the episode", ylabel="accuracy", ylim=(0, 1))
    axes.set_title(f"{frame.dataset.iloc[0]}: learning within an episode")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.12))
    return figure
