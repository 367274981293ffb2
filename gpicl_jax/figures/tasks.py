"""What a task is."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, styled

_SHOWN = 14  # numbers of a projected image in the drawing of a token


@styled
def tasks(found: dict[str, Any]) -> Figure:
    """One image under several projections; labels before and after; the tokens and their shift; the statistics of A.

    Args:
      found: as `experiments.tasks.draw_tasks` returns.
    """
    figure = Figure(figsize=(10.5, 8.2))
    above, middle, below = figure.subfigures(3, 1, height_ratios=(1, 1.35, 1.25))
    _images(above, found)
    _sequence(middle, found)
    _statistics(below, found)
    return figure


def _images(figure, found: dict[str, Any]) -> None:
    figure.suptitle(f"1. A task projects every image by its own random matrix, x → A x ({found['name']})", fontsize=10)
    projected_TX, permutation_TC = found["projected_TX"], found["permutation_TC"]
    size = round(len(found["image_X"]) ** 0.5)
    panels = figure.subplots(1, 1 + len(projected_TX))
    label = found["before_L"][0]
    titles = [f"image, label {label}", *(f"task {n}: label {p[label]}" for n, p in enumerate(permutation_TC))]
    for axes, values, title in zip(panels, [found["image_X"], *projected_TX], titles, strict=True):
        axes.imshow(values.reshape(size, size), cmap="gray", vmin=-3, vmax=3)
        axes.set(xticks=[], yticks=[], title=title)


def _sequence(figure, found: dict[str, Any]) -> None:
    figure.suptitle("2. It renames the labels, and a token holds an image and the label of the one before", fontsize=10)
    permutations, tokens = figure.subplots(1, 2, width_ratios=(1, 2.4))
    for number, permutation_C in enumerate(found["permutation_TC"]):
        for before, after in enumerate(permutation_C):
            permutations.plot([2 * number, 2 * number + 1], [before, after], color=COLORS[number], linewidth=1)
        permutations.text(2 * number + 0.5, -1.2, f"task {number}", ha="center", color=COLORS[number], fontsize=8)
    permutations.set(xticks=[], yticks=range(10), ylabel="label before (left), after (right)", ylim=(9.5, -1.8))
    permutations.spines[["bottom", "left"]].set_visible(False)
    length = len(found["after_L"])
    shown_LT = np.concatenate([found["tokens_LT"][:, :_SHOWN], 3 * found["tokens_LT"][:, -10:]], axis=1)
    tokens.imshow(shown_LT, cmap="gray", vmin=-3, vmax=3, aspect="auto")
    tokens.axvline(_SHOWN - 0.5, color=COLORS[1], linewidth=2)
    labels = [f"{i}: {b} → {a}" for i, (b, a) in enumerate(zip(found["before_L"], found["after_L"], strict=True))]
    tokens.set_yticks(range(length), labels)
    tokens.set_ylabel("example: its label → in task 0")
    num_features = found["tokens_LT"].shape[1] - 10
    tokens.set_xticks(
        [_SHOWN / 2, _SHOWN + 4.5], [f"A x$_i$ ({_SHOWN} of {num_features} numbers)", "one-hot y$_{i-1}$, 0 to 9"]
    )
    tokens.tick_params(length=0)


def _statistics(figure, found: dict[str, Any]) -> None:
    figure.suptitle("3. The matrices: independent normal entries of variance 1/X", fontsize=10)
    entries, singular = figure.subplots(1, 2)
    grid = np.linspace(-4.5, 4.5, 200)
    entries.hist(found["entries"], bins=80, range=(-4.5, 4.5), density=True, color=COLORS[0], alpha=0.6, label="√X · A")
    entries.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color="black", linewidth=1, label="standard normal")
    entries.set(xlabel="entry", ylabel="density")
    grid = np.linspace(0, 2, 200)
    singular.hist(found["singular"], bins=30, range=(0, 2.2), density=True, color=COLORS[0], alpha=0.6, label="of A")
    singular.plot(grid, np.sqrt(4 - grid**2) / np.pi, color="black", linewidth=1, label="quarter circle (X → ∞)")
    singular.set(xlabel="singular value")
    for axes in (entries, singular):
        axes.legend()
