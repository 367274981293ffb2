"""`gpicl experiment tasks`: nothing is trained."""

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure
from scipy import stats

from gpicl_jax.build import make_tasks
from gpicl_jax.experiments.engine import Experiment, Grid, Member, Row, markdown
from gpicl_jax.figures.style import COLORS
from gpicl_jax.hyper import hyper_from
from gpicl_jax.models.base import tokens
from gpicl_jax.registry import register
from gpicl_jax.sections import Config
from gpicl_jax.tasks import Episode, TaskDistribution, draw_task
from gpicl_jax.tasks.augmented import Task, draw_sequence, seen_task_keys

_TASKS, _EXAMPLES = 4, 8
_SHOWN = 14  # numbers of a projected image in the drawing of a token


@register("tasks")
class Tasks(Experiment):
    """What a task is, drawn."""

    axes = ("seed",)
    trains = False
    scales = {
        "smoke": dict(overrides=("--data.train=digits", "--data.size=8")),
        "laptop": dict(overrides=("--data.train=mnist", "--data.size=8")),
        "paper": dict(overrides=("--data.train=mnist", "--data.size=14")),
    }

    def table(self) -> Grid:
        return {(): ("digits_transformer", f"--tasks.length={_EXAMPLES}")}

    def score(self, trained: Member) -> list[Row]:
        """Returns a row for each task: statistics of its matrix A, times √X."""
        rows = []
        for number, (task, entries_XX) in enumerate(_drawn(make_tasks(trained.config, "train"), trained.config)):
            values = np.linalg.svd(entries_XX / np.sqrt(len(entries_XX)), compute_uv=False)
            rows.append(
                {
                    "task": number,
                    "X": len(entries_XX),
                    "mean": entries_XX.mean(),
                    "X_variance": entries_XX.var(),
                    "excess_kurtosis": stats.kurtosis(entries_XX, axis=None),
                    "largest_singular_value": values.max(),
                    "smallest_singular_value": values.min(),
                    "permutation": " ".join(map(str, np.asarray(task.permutation_C))),
                }
            )
        return rows

    def summary(self, frame: pd.DataFrame) -> str:
        frame = frame.loc[:, "task":"permutation"]
        return markdown(frame.columns, frame.map(lambda value: f"{value:.4g}" if isinstance(value, float) else value).values)

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws an image under several projections, labels before and after, the tokens and their shift, statistics of A."""
        config, key = self.cells()[0].config, jax.random.key(0)
        tasks, data = make_tasks(config, "train"), config.data
        drawn = _drawn(tasks, config)
        episodes = [draw_sequence(tasks, task, key) for task, _ in drawn]
        examples = tasks.source.draw(drawn[0][0].source_key, key, tasks.drawing)
        image_X = (np.asarray(examples.pixels_LX[0], float) - float(examples.mean)) / float(examples.std)
        labels_L = np.asarray(examples.labels_L)
        permutations_TC = np.stack([task.permutation_C for task, _ in drawn])
        figure = Figure(figsize=(10.5, 8.2))
        above, below, statistics = figure.subfigures(3, 1, height_ratios=(1, 1.35, 1.25))
        title = f"1. A task projects every image by its own random matrix, x → A x ({data.train[0]}, {data.size}×{data.size})"
        above.suptitle(title, fontsize=10)
        images = {f"image, label {labels_L[0]}": image_X}
        for number, episode in enumerate(episodes):
            images[f"task {number}: label {permutations_TC[number, labels_L[0]]}"] = episode.x_LX[0]
        _images(above, images)
        _sequence(below, permutations_TC, labels_L, episodes[0])
        _statistics(statistics, [entries_XX for _, entries_XX in drawn])
        return figure


def _drawn(tasks: TaskDistribution, config: Config) -> list[tuple[Task, np.ndarray]]:
    """Returns the first tasks of a training set, each with √X·A."""
    drawn = [draw_task(tasks, key) for key in seen_task_keys(hyper_from(config), np.arange(_TASKS))]
    matrices = [np.asarray(task.projection.entries_XX, np.float64) * float(task.projection.scale) for task in drawn]
    return [(task, np.sqrt(len(matrix)) * matrix) for task, matrix in zip(drawn, matrices, strict=True)]


def _images(figure: SubFigure, images: dict[str, np.ndarray]) -> None:
    for axes, (title, values_X) in zip(figure.subplots(1, len(images)), images.items(), strict=True):
        axes.imshow(np.reshape(values_X, (round(len(values_X) ** 0.5), -1)), cmap="gray", vmin=-3, vmax=3)
        axes.set(xticks=[], yticks=[], title=title)


def _sequence(figure: SubFigure, permutations_TC: np.ndarray, before_L: np.ndarray, episode: Episode) -> None:
    figure.suptitle("2. It renames the labels, and a token holds an image and the label of the one before", fontsize=10)
    permutations, token_axes = figure.subplots(1, 2, width_ratios=(1, 2.4))
    for number, permutation_C in enumerate(permutations_TC):
        for before, after in enumerate(permutation_C):
            permutations.plot([2 * number, 2 * number + 1], [before, after], color=COLORS[number], linewidth=1)
        permutations.text(2 * number + 0.5, -1.2, f"task {number}", ha="center", color=COLORS[number], fontsize=8)
    permutations.set(xticks=[], yticks=range(10), ylabel="label before (left), after (right)", ylim=(9.5, -1.8))
    permutations.spines[["bottom", "left"]].set_visible(False)
    tokens_LT = np.asarray(tokens(episode.x_LX, episode.y_L, 10))
    shown_LT = np.concatenate([tokens_LT[:, :_SHOWN], 3 * tokens_LT[:, -10:]], axis=1)
    token_axes.imshow(shown_LT, cmap="gray", vmin=-3, vmax=3, aspect="auto")
    token_axes.axvline(_SHOWN - 0.5, color=COLORS[1], linewidth=2)
    names_L = [f"{i}: {b} → {a}" for i, (b, a) in enumerate(zip(before_L, episode.y_L, strict=True))]
    token_axes.set_yticks(range(_EXAMPLES), names_L)
    token_axes.set_ylabel("example: its label → in task 0")
    names = [f"A x$_i$ ({_SHOWN} of {episode.x_LX.shape[1]} numbers)", "one-hot y$_{i-1}$, 0 to 9"]
    token_axes.set_xticks([_SHOWN / 2, _SHOWN + 4.5], names)
    token_axes.tick_params(length=0)


def _statistics(figure: SubFigure, matrices: list[np.ndarray]) -> None:
    figure.suptitle("3. The matrices: independent normal entries of variance 1/X", fontsize=10)
    entries, singular = figure.subplots(1, 2)
    grid = np.linspace(-4.5, 4.5, 200)
    style = {"density": True, "color": COLORS[0], "alpha": 0.6}
    entries.hist(np.concatenate([each.ravel() for each in matrices]), bins=80, range=(-4.5, 4.5), label="√X · A", **style)
    entries.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color="black", linewidth=1, label="standard normal")
    entries.set(xlabel="entry", ylabel="density")
    grid = np.linspace(0, 2, 200)
    values = np.concatenate([np.linalg.svd(each / np.sqrt(len(each)), compute_uv=False) for each in matrices])
    singular.hist(values, bins=30, range=(0, 2.2), label="of A", **style)
    singular.plot(grid, np.sqrt(4 - grid**2) / np.pi, color="black", linewidth=1, label="quarter circle (X → ∞)")
    singular.set(xlabel="singular value")
    for axes in (entries, singular):
        axes.legend()
