"""Prints the tables of README.md and of results/*/README.md that no experiment prints, from the committed CSV.

    python results/tables.py              # all
    python results/tables.py mnist_8x8    # those of one folder

Tables of experiments are printed by `gpicl figure NAME --scale laptop`. A test holds each table against what is printed.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from gpicl_jax.experiments.engine import markdown, mean_and_deviation
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
BENCHMARKS = ("tasks", "step", "inference", "maml", "study", "population")
_WORDS = {
    "--tasks.active_classes=2 --tasks.images_per_class=1": "--recall first",
    "--tasks.images_per_class=1": "--fewer images alone",
    "--tasks.active_classes=2": "--fewer classes alone",
    "--model.layout=paired": "--paired",
    "--optimizer.name=muon --optimizer.learning_rate=2e-2": "--Muon",
    "--optimizer.name=adam --optimizer.learning_rate=1e-3 --optimizer.b2=0.99": "--Adam",
    "--tasks.tasks_per_step=8": "--8 episodes a step",
    "--tasks.length=50": "--episodes of 50",
    "--model.bounded=true": "--bounded memory",
}
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


def digits() -> Iterator[str]:
    """Accuracy on the digits over positions 90–99: of six seeds with test tasks of their own, and of changes to the recipe."""
    kinds = {"unseen_tasks": "unseen tasks", "unseen_tasks_train_images": "training images", "identity_tasks": "no projection"}
    for file, learner in (("equivariant", "equivariant_transformer"), ("learning_curves", "transformer")):
        frame = pd.read_csv(RESULTS / "digits" / f"{file}.csv")
        begin = frame[(frame.tasks == "unseen_tasks") & (frame.position == 0)].groupby("solver").accuracy
        last = frame[frame.position >= LAST.start].groupby(["solver", "tasks", "seed"]).accuracy.mean()
        rows = []
        for solver in (learner, *SOLVERS):
            cells = [mean_and_deviation(last[solver, kind]) if (solver, kind) in last else "–" for kind in kinds]
            rows.append([solver, mean_and_deviation(begin.get_group(solver)) if solver in begin.groups else "–", *cells])
        yield markdown(["", "unseen tasks, first", *kinds.values()], rows)
    changes = pd.read_csv(RESULTS / "digits" / "changes.csv")
    by_change = changes.groupby("change", sort=False)["last"].agg(lambda last: ", ".join(map("{:.3f}".format, last)))
    yield markdown(
        ["change", "unseen tasks, by seed"],
        [[f"`{change}`" if change[0] == "-" else change, last] for change, last in by_change.items()],
    )


def comparison() -> Iterator[str]:
    """Temporaries of a meta-gradient, from `results/comparison/memory.py`, and what `results/comparison/tried.py` tried."""
    memory = pd.read_csv(RESULTS / "comparison" / "memory.csv")
    yield markdown(
        ["", "MiB, steps recomputed (the default)", "MiB, steps kept"],
        [[row.case, f"{row.recomputed:,.1f}", f"{row.kept:,.1f}"] for row in memory.itertuples()],
    )
    rows = []
    for row in pd.read_csv(RESULTS / "comparison" / "tried.csv").itertuples():
        told = row.tried
        for setting, words in _WORDS.items():
            told = told.replace(setting, words)
        left = (
            [f"{row.left_seconds:.0f}", f"{row.left_episodes:,.0f}"] if row.left_seconds > 0 else [f"> {row.seconds:.0f}", "–"]
        )
        rows.append([f"`{row.row}`", ", ".join(told.split(" --")).replace("--", ""), *left, f"{row.validation_last:.3f}"])
    yield markdown(["", "tried", "left the plateau after s", "episodes", "accuracy at the end"], rows)


def benchmarks() -> Iterator[str]:
    """How many times as fast one side is as another, and other shares: medians (10th to 90th percentile)."""
    frame = pd.concat([pd.read_csv(RESULTS / "benchmarks" / f"{name}.csv") for name in BENCHMARKS], ignore_index=True)
    ratios = frame[frame.quantity.str.startswith("× ")]
    yield markdown(
        ["measured", "side", "against", "times as fast"],
        [[row.table, row.side, row.quantity.removeprefix("× "), _spread(row)] for row in ratios.itertuples()],
    )
    others = frame[frame.quantity.isin(("share of a step", "/ that of 16")) & (frame.low < frame.high)]
    yield markdown(
        ["measured", "side", "quantity", "median"],
        [[row.table, row.side, row.quantity, _spread(row)] for row in others.itertuples()],
    )


def equivariant() -> Iterator[str]:
    """Rates of tasks, of training episodes, and of predictions, by number of features and of examples."""
    tasks = pd.read_csv(RESULTS / "equivariant" / "tasks.csv").query("quantity == 'tasks/s'")
    rates = tasks.pivot_table(index="features", columns="side", values="median")
    columns = ["jax, normal", "jax, integer", "jax, gram"]
    rows = [
        [f"{n:,}", *(f"{row[name]:,.1f}" for name in columns), f"{row[columns[2]] / row[columns[0]]:.1f}×"]
        for n, row in rates.iterrows()
    ]
    yield markdown(["features", "`normal`, tasks/s", "`integer`", "`gram`", "`gram` against `normal`"], rows)
    features = pd.read_csv(RESULTS / "equivariant" / "features.csv").query("quantity == 'µs/episode'")
    first = features["median"].iloc[0]
    rows = [
        [row.side, f"{row.median / 1e3:.1f} ({row.low / 1e3:.1f}–{row.high / 1e3:.1f})", f"{row.median / first:.2f}"]
        for row in features.itertuples()
    ]
    yield markdown(["", "ms a training episode", "against 64 features"], rows)
    inference = pd.read_csv(RESULTS / "equivariant" / "inference.csv")
    alone = inference[inference.table.str.endswith("batch of 1")].pivot_table(
        index="length", columns="quantity", values="median"
    )
    rows = [[f"{n:,}", f"{row['µs/episode'] / 1e3:.2f}", f"{row['temporaries MB']:.1f}"] for n, row in alone.iterrows()]
    yield markdown(["examples", "ms", "temporary memory, MB"], rows)


def dry_runs() -> Iterator[str]:
    """What every experiment does and needs at `--scale paper`, on one H100 where its programs are compiled for it."""
    rows = []
    for row in pd.read_csv(RESULTS / "dry_run.csv").itertuples():
        counts = [f"{row.members:,}", f"{row.units:,}", f"{row.programs:,}", f"{row.steps / 1e6:,.2f}"]
        needs = [f"{row.hours:,.1f}", f"{row.memory_gib:,.1f}", f"{row.do_not_fit:.0f}"]
        rows.append(
            [f"`{row.command}`", *counts, *(["not compiled"] * 3 if pd.isna(row.hours) else needs), f"{row.disk_gb:,.3f}"]
        )
    needs = ["hours on an H100, estimated", "GiB of the largest unit", "units that do not fit"]
    yield markdown(["`gpicl experiment …`", "members", "units", "programs", "million steps", *needs, "checkpoints, GB"], rows)


def accelerators() -> Iterator[str]:
    """Each learner compiled for each target, and the Transformer on more and more chips."""
    frame = pd.read_csv(RESULTS / "accelerators" / "compile.csv")
    frame["learner"] = frame.config.str.removeprefix("comparison/paper/")
    for quantity in ("memory", "speed"):
        rows = []
        for (learner, features), of_one in frame.groupby(["learner", "features"], sort=False):
            cells = {row.target: _compiled_cell(row, quantity) for row in of_one.itertuples()}
            work = f"{of_one[of_one.chips == 1].gflop.iloc[0]:,.0f}"
            rows.append([learner, f"{features:,}", work, *(cells.get(target, "–") for target in frame.target.unique())])
        yield markdown([quantity, "features", "GFLOP a step", *frame.target.unique()], rows)
    chips = pd.read_csv(RESULTS / "accelerators" / "chips.csv")
    rows = [
        [
            f"{row.episodes:,}",
            row.target,
            f"{row.temporaries_gib:.2f}",
            *(f"{each:.3f}" for each in (row.products_ms, row.memory_ms, row.collectives_ms)),
            f"{row.reduced_mb:.1f}",
            f"{100 * row.collectives_ms / max(row.products_ms, row.memory_ms):.1f}%",
        ]
        for row in chips.itertuples()
    ]
    limits = ["products, ms", "kernels' bytes, ms", "all-reduce, ms"]
    yield markdown(["episodes a step", "chips", "GiB a chip", *limits, "MB reduced", "all-reduce of the slower rest"], rows)
    changes = pd.read_csv(RESULTS / "accelerators" / "changes.csv")
    rows = [
        [row.config.split("/")[-1], row.form, f"{row.temporaries_gib:.2f}", f"{row.gb:.1f}", f"{row.kernels:,.0f}"]
        for row in changes.itertuples()
    ]
    yield markdown(["learner", "", "temporaries, GiB", "GB moved a step", "kernels a step"], rows)


def _compiled_cell(row: Any, quantity: str) -> str:
    if not row.fits:
        return f"does not fit: {row.temporaries_gib:.1f} GiB" if row.temporaries_gib < 1e6 else "does not fit"
    if quantity == "memory":
        return f"{row.arguments_gib + row.temporaries_gib:.2f} GiB"
    return f"{row.steps_per_second:,.1f}/s, {row.gb:,.1f} GB, {row.kernels:,.0f}, {row.bound}"


def _spread(row: Any) -> str:
    return f"{row.median:.2f} ({row.low:.2f}–{row.high:.2f})"


TABLES = {
    "": readme,
    "README.md": dry_runs,
    "digits": digits,
    "mnist_8x8": mnist_8x8,
    "benchmarks": benchmarks,
    "comparison": comparison,
    "equivariant": equivariant,
    "accelerators": accelerators,
}

if __name__ == "__main__":
    for folder in sys.argv[1:] or TABLES:
        print(f"## results/{folder}" if folder else "## README.md", *TABLES[folder](), sep="\n\n", end="\n\n")
