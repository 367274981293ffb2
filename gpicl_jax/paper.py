"""The paper's own numbers (arXiv 2212.04458), to draw beside ours; sources in `reference/README.md`."""

from importlib import resources

import pandas as pd


def paper_learning_curve(train: tuple[str, ...], test: str) -> pd.DataFrame:
    """The paper's Transformer on unseen tasks: columns `position` (examples seen) and `accuracy`; empty where it has none.

    Args:
      train: base datasets of meta-training.
      test: base dataset of the meta-test.

    Example:
      >>> paper_learning_curve(("mnist",), "kmnist").values.tolist()
      [[99.0, 0.5339]]
    """
    curves, table = (_read(name) for name in ("learning_curves", "comparison"))
    curve = curves[(curves.source == "paper") & (curves.train_dataset == "+".join(train)) & (curves.test_dataset == test)]
    if curve.empty and train == ("mnist",):  # the table's only training set
        curve = table[(table.source == "paper") & (table.method == "transformer") & (table.dataset == test)]
        curve = curve.assign(examples_seen=99)
    return curve.rename(columns={"examples_seen": "position"})[["position", "accuracy"]].reset_index(drop=True)


def paper_comparison() -> pd.DataFrame:
    """Others' tables: columns `source` (`paper`, `lerostre`), `method`, `dataset`, `accuracy` on the 100th example.

    Example:
      >>> table = paper_comparison()
      >>> float(table[(table.source == "paper") & (table.method == "vsml") & (table.dataset == "mnist")].accuracy.iloc[0])
      0.7904
    """
    return _read("comparison")


def paper_map() -> pd.DataFrame:
    """The paper's map: `model` (`mlp`, `transformer`), `tasks` (`seen`, `unseen`), `num_tasks`, `model_size`, `accuracy`.

    Example:
      >>> table = paper_map()
      >>> bool(((table.model == "mlp") & (table.tasks == "unseen")).any())
      False
    """
    return _read("heatmap")


def paper_transition() -> pd.DataFrame:
    """Accuracy gained within an episode: `source` (`paper`, `lerostre`), `evaluation`, `num_tasks`, `accuracy_improvement`.

    Example:
      >>> sorted(set(paper_transition().evaluation))
      ['seen_mnist', 'unseen_fashion_mnist', 'unseen_mnist']
    """
    return _read("transition")


def _read(name: str) -> pd.DataFrame:
    with (resources.files("gpicl_jax") / "reference" / f"{name}.csv").open() as file:
        return pd.read_csv(file)
