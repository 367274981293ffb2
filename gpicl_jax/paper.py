"""The paper's own numbers (arXiv 2212.04458), to draw beside ours. Sources are in `reference/README.md`."""

from importlib import resources

import pandas as pd


def paper_learning_curve(train: tuple[str, ...], test: str) -> pd.DataFrame:
    """Returns the paper's Transformer on unseen tasks: `position` (examples seen) and `accuracy`. It may be empty.

    Args:
      train: base datasets of meta-training.
      test: base dataset of the meta-test.

    Example:
      >>> paper_learning_curve(("mnist",), "kmnist").values.tolist()
      [[99.0, 0.5339]]
    """
    curves, table = (paper_table(name) for name in ("learning_curves", "comparison"))
    curve = curves[(curves.source == "paper") & (curves.train_dataset == "+".join(train)) & (curves.test_dataset == test)]
    if curve.empty and train == ("mnist",):  # the table's only training set
        curve = table[(table.source == "paper") & (table.method == "transformer") & (table.dataset == test)]
        curve = curve.assign(examples_seen=99)
    return curve.rename(columns={"examples_seen": "position"})[["position", "accuracy"]].reset_index(drop=True)


def paper_table(name: str) -> pd.DataFrame:
    """Returns a table. Its columns are those of its name:

    - `comparison`: `source`, `method`, `dataset`, `accuracy` on the 100th example
    - `heatmap`: `model` (`mlp`, `transformer`), `tasks` (`seen`, `unseen`), `num_tasks`, `model_size`, `accuracy`
    - `transition`: `source`, `evaluation`, `num_tasks`, `accuracy_improvement` within an episode
    - `learning_curves`: `source`, `train_dataset`, `test_dataset`, `examples_seen`, `accuracy`

    A `source` is `paper`, or `lerostre`, a public reproduction.

    Example:
      >>> table = paper_table("comparison").query("source == 'paper'").set_index(["method", "dataset"]).accuracy
      >>> float(table["vsml", "mnist"])
      0.7904
    """
    with (resources.files("gpicl_jax") / "reference" / f"{name}.csv").open() as file:
        return pd.read_csv(file)
