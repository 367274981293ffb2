"""Draws README's first figure, `first.png` of this folder, from the CSV: python results/digits/first_figure.py"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, write_png

FOLDER = Path(__file__).parent
LINES = {
    "equivariant Transformer (bin/train)": ("equivariant.csv", "equivariant_transformer"),
    "causal Transformer": ("learning_curves.csv", "transformer"),
    "kernel ridge": ("equivariant.csv", "kernel ridge"),
}


def draw() -> Figure:
    """Accuracy on unseen tasks and unseen images against the examples seen, means over the seeds that the CSV have."""
    figure = Figure(figsize=(6, 3.2))
    axes = figure.subplots()
    for (label, (file, solver)), color, style in zip(LINES.items(), COLORS, ("-", "-", "--"), strict=False):
        rows = pd.read_csv(FOLDER / file).query("tasks == 'unseen_tasks' and dataset == 'digits'")
        means = rows[rows.solver == solver].groupby("position").accuracy.mean()
        marker = "o" if len(means) < 90 else ""  # a learner of contexts is tested after some numbers of examples alone
        axes.plot(means.index, means, style, marker=marker, markersize=3, color=color, linewidth=1.5, label=label)
    axes.axhline(0.1, color="grey", linewidth=0.8, linestyle=":")
    axes.annotate("chance", (99, 0.11), color="grey", ha="right")
    axes.set(xlabel="labelled examples seen", ylabel="accuracy on the next image", ylim=(0, 1), xlim=(0, 99))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.15))
    return figure


if __name__ == "__main__":
    print(write_png(FOLDER / "first.png", draw))
