"""Prints the tables of README.md and of results/*/README.md that no experiment prints, from the committed CSV.

    python results/tables.py              # all
    python results/tables.py mnist_8x8    # those of one folder

Tables of experiments are printed by `gpicl figure NAME --scale laptop`. A test holds each table against what is printed.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from gpicl_jax.experiments.engine import markdown
from gpicl_jax.paper import paper_table

RESULTS = Path(__file__).parent
SETS = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "kmnist": "KMNIST",
    "random": "random",
    "cifar10": "CIFAR-10",
    "digits": "digits",
}
SOLVERS = ("1-NN", "ridge", "kernel ridge")
LAST = slice(90, 99)  # positions, both included


def readme() -> Iterator[str]:
    """Percent after 99 examples: the equivariant learner of `results/equivariant`, kernel ridge, the paper's best two."""
    frame = pd.read_csv(RESULTS / "equivariant" / "laptop.csv").query("trained_on == 'mnist, 32×32×3'")
    datasets = ["mnist", "fashion_mnist", "kmnist", "random", "cifar10"]
    rows = []
    for name, column in (("equivariant Transformer", "last_row"), ("kernel ridge, same episodes", "kernel ridge last_row")):
        means = frame.groupby("dataset")[[column, f"{column}_standard_error"]].mean().loc[datasets] * 100
        cells = [f"{mean:.1f} ± {error:.1f}" if error else f"{mean:.1f}" for mean, error in means.itertuples(index=False)]
        rows.append([name, *cells])
    paper = paper_table("comparison").query("source == 'paper'").set_index(["method", "dataset"]).accuracy * 100
    for name, method in (("the paper's Transformer (GPICL)", "transformer"), ("the paper's best (VSML)", "vsml")):
        rows.append([name, *(f"{paper[method, dataset]:.1f}" for dataset in datasets)])
    yield markdown(["learner", *(SETS[dataset] for dataset in datasets)], rows)


def mnist_8x8() -> Iterator[str]:
    """Accuracy over positions 90–99, in brackets at position 99 with the standard error over tasks."""
    frame = pd.read_csv(RESULTS / "mnist_8x8" / "learning_curves.csv")
    curves = dict(list(frame.groupby(["tasks", "dataset", "solver"])))
    paper = paper_table("comparison").query("source == 'paper' and method == 'transformer'").set_index("dataset").accuracy
    solvers = ["transformer", *SOLVERS]
    for kind, more in (("unseen_tasks", ["the paper's Transformer"]), ("identity_tasks", [])):
        rows = []
        for dataset in ("mnist", "fashion_mnist", "kmnist", "cifar10", "digits", "random"):
            cells = []
            for solver in solvers:
                curve = curves[kind, dataset, solver].set_index("position")
                last, end = curve.accuracy.loc[LAST].mean(), curve.loc[99]
                cells.append(f"{last:.3f} ({end.accuracy:.3f} ± {end.standard_error:.3f})")
            name = "CIFAR-10, grey" if dataset == "cifar10" else SETS[dataset]
            rows.append([name, *cells, *([f"({paper[dataset]:.3f})" if dataset in paper else "–"] if more else [])])
        yield markdown(["", "Transformer", *SOLVERS, *more], rows)


TABLES = {"": readme, "mnist_8x8": mnist_8x8}

if __name__ == "__main__":
    for folder in sys.argv[1:] or TABLES:
        print(f"\n## results/{folder}\n" if folder else "## README.md\n", *TABLES[folder](), sep="\n")
