"""`gpicl experiment symmetries`."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.experiments.engine import SMOKE, Experiment, Grid, markdown, mean_and_deviation
from gpicl_jax.figures.style import finished, marks, panels, top_down
from gpicl_jax.registry import register

# An example of one stream gets a width with which it costs about as much as ten streams.
MODELS = {
    "equivariant_transformer": (),
    "equivariant_without_rotations": (),
    "equivariant_without_label_permutations": ("--model.width=72", "--model.head_size=24"),
    "equivariant_without_context_permutations": (),
}
_TASKS_PER_STEP = 20
SMALL = (
    *("--data.size=8", "--data.channels=1", "--tasks.entries=normal", "--tasks.feature_scales=0", "--tasks.clutter=0"),
    *(f"--tasks.tasks_per_step={_TASKS_PER_STEP}", "--train.chunk=50", "--eval.episodes=1024"),
    *("--model.width=24", "--model.num_layers=4", "--model.head_size=6"),
)


@register("symmetries")
class Symmetries(Experiment):
    """What each symmetry of the equivariant Transformer is worth, by leaving out one at a time.

    Attributes:
      episodes: numbers of meta-training episodes, each with its own schedule.
    """

    episodes: tuple[int, ...] = (2000, 15000)

    axes = ("model", "train_episodes", "seed")
    scales = {
        "smoke": dict(episodes=(800,), datasets=("digits",), overrides=(*SMALL, *SMOKE, "--optimizer.warmup_steps=10")),
        "laptop": dict(seeds=3, together=3, datasets=("mnist", "fashion_mnist"), overrides=SMALL),
        "paper": dict(
            seeds=5, together=5, episodes=(2000, 15000, 200000), datasets=("mnist", "fashion_mnist", "kmnist"), overrides=SMALL
        ),
    }

    def table(self) -> Grid:
        found = {}
        for name, wider in MODELS.items():
            for episodes in self.episodes:
                steps = (f"--train.{each}={episodes // _TASKS_PER_STEP}" for each in ("steps", "validate_every"))
                found[name, episodes] = ("experiments/laptop/equivariant", f"--model.name={name}", *wider, *steps)
        return found

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns accuracy over the last tenth, mean over seeds ± standard deviation, and the loss to `equivariant`."""
        table = []
        whole = frame[frame.model == next(iter(MODELS))].groupby(["train_episodes", "dataset"])["last"].mean()
        for (model, episodes, dataset), rows in frame.groupby(["model", "train_episodes", "dataset"], sort=False):
            lacks = rows["last"].mean() - whole.get((episodes, dataset), float("nan"))
            found = (mean_and_deviation(rows["last"]), f"{rows.loss.mean():.3f}", f"{lacks:+.3f}")
            table.append([model, f"{episodes:,}", dataset, *found])
        return markdown(["model", "episodes", "dataset", "last 10%", "loss (nats)", "against the equivariant one"], table)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws a panel for each dataset and a color for each number of episodes. A mark is a seed."""
        frame = frame.assign(model=frame.model.str.replace("_", " "))
        datasets = frame.dataset.unique()
        figure, axes_of = panels(datasets, 3.2 * len(datasets) + 2.4, 0.45 * frame.model.nunique() + 1.7)
        for dataset, axes in axes_of.items():
            marks(axes, frame[frame.dataset == dataset], "last", "model", "train_episodes", "after {:,} episodes")
            axes.set(title=dataset, xlabel="accuracy over the last tenth, unseen tasks")
        top_down(figure)
        return finished(figure, 4, f"{self.scale}: what each symmetry is worth")
