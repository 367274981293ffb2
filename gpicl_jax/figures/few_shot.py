"""Few-shot accuracy by learner and problem, beside the paper's."""

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.figures.style import COLORS, MARKERS, styled


@styled
def few_shot(frame: pd.DataFrame, scale: str, paper: dict[tuple[str, str], float]) -> Figure:
    """A mark with its 95% interval for each learner, problem by problem; crosses are published values.

    Args:
      frame: columns `learner`, `problem`, `last` and `interval` (0 to 1).
      scale: for the title.
      paper: percent, by learner and problem.
    """
    problems, learners = list(frame.problem.unique()), list(frame.learner.unique())
    figure = Figure(figsize=(2.5 + 1.6 * len(problems), 3.6))
    axes = figure.subplots()
    for number, learner in enumerate(learners):
        rows = frame[frame.learner == learner]
        style = {"color": COLORS[number], "marker": MARKERS[number], "label": learner.replace("_", " ")}
        places = [problems.index(problem) + 0.14 * (number - (len(learners) - 1) / 2) for problem in rows.problem]
        axes.errorbar(places, 100 * rows["last"], yerr=100 * rows.interval, linestyle="none", capsize=2, **style)
        published = [paper.get((learner, problem), float("nan")) for problem in rows.problem]
        axes.plot(places, published, "x", color="red", label="published" if number == 0 else None)
    axes.set_xticks(range(len(problems)), [problem.replace("way_", "-way ").replace("shot", "-shot") for problem in problems])
    axes.set(
        xlim=(-0.5, len(problems) - 0.5),
        ylabel="accuracy on test problems, %",
        title=f"{scale}: Omniglot, characters never seen",
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
