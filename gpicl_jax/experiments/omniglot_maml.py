"""`gpicl experiment omniglot-maml`.

Its four meta-optimisers, one change at a time, then a search over the inner and the outer rate, which validation problems
decide. Accuracy after adaptation is that of the last four drawings of a problem, which no training and no validation sees.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.build import make_tasks
from gpicl_jax.evaluation import Scores, drawn_in_parts, unseen_episode_keys
from gpicl_jax.experiments.engine import Cell, Experiment, Grid, Member, Row, half_width, markdown
from gpicl_jax.figures.style import COLORS, THIN, finished, styled
from gpicl_jax.registry import register
from gpicl_jax.tasks.augmented import stream

_BASE = "Adam 1e-4"
_TEST_DRAWINGS = 4
_WATCHED = 8

# Name: what it changes of the study's config, whose meta-optimiser is Adam with 1e-4.
STUDY: dict[str, tuple[str, ...]] = {
    "SGD 1e-3": ("--optimizer.name=sgd", "--optimizer.momentum=0.9", "--optimizer.learning_rate=1e-3"),
    "SGD 1e-4": ("--optimizer.name=sgd", "--optimizer.momentum=0.9", "--optimizer.learning_rate=1e-4"),
    _BASE: (),
    "Adam 1e-5": ("--optimizer.learning_rate=1e-5",),
}
CHANGES: dict[str, tuple[str, ...]] = {
    "logits": ("--learner.squash=false",),
    "whole validation set": ("--learner.num_queries=0",),
    "second order": ("--learner.first_order=false",),
    "standardised": ("--data.standardize=true",),
    "meta-batch 32": ("--tasks.tasks_per_step=32",),
    "inner rate 0.1": ("--learner.inner_rate=0.1",),
    "learned inner rates": ("--learner.learn_rates=true",),
    "clipping": ("--optimizer.clip=1.0",),
    "unit gradients": ("--learner.unit_gradients=true",),
    "Adam 1e-3": ("--optimizer.learning_rate=1e-3",),
}
_LOSSES = ("--learner.squash=false", "--learner.num_queries=0", "--data.standardize=true")
TOGETHER: dict[str, tuple[str, ...]] = {"logits, whole set, standardised": _LOSSES}
SEARCH: dict[str, tuple[str, ...]] = {
    f"these, inner rate {inner}, Adam {outer}": (
        *_LOSSES,
        f"--learner.inner_rate={inner}",
        f"--optimizer.learning_rate={outer}",
    )
    for inner in ("0.03", "0.1", "0.3")
    for outer in ("1e-4", "1e-3", "1e-2")
}
CONDITIONS = STUDY | CHANGES | TOGETHER | SEARCH

_SMALL = ("--data.size=16", "--model.padding=SAME", "--train.steps=500", "--train.validate_every=100")
_SMOKE = (*_SMALL[:2], "--train.steps=4", "--train.validate_every=2", "--learner.inner_steps=6", "--eval.episodes=16")
_WINDOWS = (1, 50, 300)  # meta-steps
_INNER_WINDOW = 5
_ROWS, _COLUMNS = 13, 8


@register("omniglot-maml")
class OmniglotMaml(Experiment):
    """A public study of MAML on Omniglot, and what held it back.

    Attributes:
      conditions: names in `CONDITIONS`.
    """

    conditions: tuple[str, ...] = tuple(CONDITIONS)

    axes = ("condition", "seed")
    scales = {
        "smoke": dict(together=2, conditions=(_BASE, "logits", next(iter(SEARCH))), overrides=_SMOKE),
        "laptop": dict(seeds=4, together=2, overrides=_SMALL),
        "paper": dict(seeds=3, together=3),
    }

    def table(self) -> Grid:
        """Conditions that differ in the meta-optimiser's step size alone share a program."""
        return {(condition,): ("omniglot/study", *CONDITIONS[condition]) for condition in self.conditions}

    def cells(self) -> list[Cell]:
        """The search has one seed."""
        return [cell for cell in super().cells() if cell.axes["condition"] not in SEARCH or not cell.axes["seed"]]

    def score(self, trained: Member) -> list[Row]:
        """Adaptation to meta-test problems from the weights before and after meta-training, on the same problems.

        `last` is the accuracy on the four test drawings; `loss` the mean cross-entropy of logits on them, nats; `gain` and
        `gain_standard_error` are of the accuracy after less that before, problem by problem. Errors are over problems.
        `validation_loss` is the mean cross-entropy of logits on validation problems at the end of meta-training. There is no
        accuracy and no gain where an inner loop diverged.
        """
        config, learner = trained.config, trained.learner
        untrained = trained.with_params(jax.jit(learner.init)(stream(config.train.seed, "init")))
        before, after = (_tested(each) for each in (untrained, trained))
        gain_P = (after.accuracy_TSL - before.accuracy_TSL)[..., -_TEST_DRAWINGS:].mean(axis=(1, 2))
        gain = {"gain": None, "gain_standard_error": None}
        if before.finite and after.finite:
            gain = {"gain": gain_P.mean(), "gain_standard_error": gain_P.std(ddof=1) / len(gain_P) ** 0.5}
        validated = [record["validation_loss"] for record in trained.records if "validation_loss" in record]
        return [_row(before, "before"), _row(after, "after") | gain | {"validation_loss": validated[-1]}]

    def watch(self, population: Any) -> Callable[[Any], dict[str, Any]]:
        """The inner loops of eight problems of meta-training characters, the same each time: at every inner step the loss that
        is descended and the loss of the whole validation set, [M, 8, K] each, None where they are not finite."""
        config, learner = population.config, population.learner
        keys = unseen_episode_keys(config.eval.seed, "validation", _WATCHED, 1)
        (part,) = drawn_in_parts(make_tasks(config, "train"), keys, config.tasks.permute_labels_prob)
        problems = jax.tree.map(lambda leaf: leaf[:, 0], part)

        def inner_losses(problems: Any, params: Any) -> tuple[jax.Array, jax.Array]:
            def of_one(problem: Any) -> tuple[jax.Array, jax.Array]:
                episode, key = problem
                return learner.adapt(params, episode, key, lambda weights: learner.queries_loss(weights, episode))[1]

            return jax.lax.map(of_one, problems)

        run = population.each(inner_losses, problems)

        def found(state: Any) -> dict[str, Any]:
            names = ("inner_loss", "inner_validation_loss")
            rounded = (np.round(np.asarray(values, float), 4) for values in run(state))
            return {name: np.where(np.isfinite(each), each, None).tolist() for name, each in zip(names, rounded, strict=True)}

        return found

    def summary(self, frame: pd.DataFrame) -> str:
        """The table, and the condition that validation problems choose of the search."""
        rows = []
        for row in summarise(frame).itertuples():
            values = (row.before, row.after, row.loss_before, row.loss_after)
            before, after, *losses = ("diverges" if pd.isna(value) else f"{value:.3f}" for value in values)
            gain = "–" if pd.isna(row.gain) else f"{row.gain:+.3f} ± {row.interval:.3f}"
            rows.append([row.condition, before, after, gain, *losses, f"{row.seeds} × {row.episodes:.0f}"])
        names = ["condition", "accuracy before", "after", "gain, 95%", "loss before", "after", "seeds × problems"]
        table = markdown(names, rows)
        searched = frame[frame.condition.isin(SEARCH) & (frame.tasks == "after")].dropna(subset=["validation_loss"])
        if searched.empty:
            return table
        best = searched.loc[searched.validation_loss.idxmin()]
        told = f"'{best.condition}' has the lowest validation loss, {best.validation_loss:.3f}."
        return f"{table}\n\nOf {len(searched)} in the search, {told}"

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Left: accuracy after adaptation before and after meta-training, every seed a mark; right: gains, intervals."""
        summary = summarise(frame).iloc[::-1].reset_index(drop=True)
        figure = Figure(figsize=(9, 0.28 * len(summary) + 1.6))
        accuracy, gain = figure.subplots(1, 2, sharey=True)
        for height, row in summary.iterrows():
            for number, when in enumerate(("before", "after")):
                runs = frame[(frame.condition == row.condition) & (frame.tasks == when)]["last"]
                style = {"color": COLORS[number], "alpha": 0.7, "markersize": 4, "label": f"{when} meta-training"}
                accuracy.plot(runs, [height] * len(runs), "os"[number], **style)
            gain.errorbar(row.gain, height, xerr=row.interval, fmt="o", color=COLORS[2], markersize=4, capsize=2)
        accuracy.set_yticks(range(len(summary)), summary.condition)
        accuracy.axvline(0.5, **THIN)
        gain.axvline(0, **THIN)
        accuracy.set(xlabel="accuracy after adaptation, meta-test problems", title=self.scale)
        gain.set(xlabel="gained by meta-training, 95% interval")
        return finished(figure, 2)

    def curves(self, runs: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> dict[str, Figure]:
        """The study's own plots."""
        about = ({"condition": axes["condition"], "seed": axes["seed"]} | record for axes, each in runs for record in each)
        frame = pd.DataFrame(row for row in about if row["condition"] in CONDITIONS)
        drawn = {
            f"meta_loss_{name}": meta_losses(frame, [each for each in conditions if (frame.condition == each).any()])
            for name, conditions in {"study": STUDY, "changes": CHANGES | TOGETHER, "search": SEARCH}.items()
            if frame.condition.isin(conditions).any()
        }
        shown = next((name for name in (_BASE, *CONDITIONS) if (frame.condition == name).any()), _BASE)
        inner = frame[(frame.condition == shown) & (frame.seed == frame.seed.min())]
        for name in ("inner_loss", "inner_validation_loss"):
            if name in inner and inner[name].notna().any():
                drawn[name] = inner_losses(inner.dropna(subset=[name]), name, shown)
        return drawn


def _tested(trained: Member) -> Scores:
    return trained.unseen(trained.config.data.train[0], length=trained.config.tasks.length + _TEST_DRAWINGS)


def _row(scores: Scores, when: str) -> Row:
    if not scores.finite:
        return {"tasks": when, "last": None, "last_standard_error": None, "loss": None, "episodes": scores.episodes}
    accuracy, error = scores.accuracy(slice(-_TEST_DRAWINGS, None))
    loss = float(scores.loss_TSL[..., -_TEST_DRAWINGS:].mean())
    return {"tasks": when, "last": accuracy, "last_standard_error": error, "loss": loss, "episodes": scores.episodes}


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each condition: means over seeds of the accuracy `before` and `after`, the `gain` with the half-width
    `interval` of 95%, and the losses; NaN where the inner loop of a seed diverged."""
    rows = []
    for condition, part in frame.groupby("condition", sort=False):
        before, after = (part[part.tasks == when] for when in ("before", "after"))
        if after.empty:
            continue
        means = {"before": before["last"], "after": after["last"], "gain": after.gain}
        means |= {"loss_before": before.loss, "loss_after": after.loss}
        interval = half_width(after.gain, after.gain_standard_error)
        about = {"condition": condition, "seeds": len(after), "interval": interval, "episodes": after.episodes.max()}
        rows.append(about | {name: values.mean(skipna=False) for name, values in means.items()})
    return pd.DataFrame(rows)


@styled
def meta_losses(frame: pd.DataFrame, conditions: list[str]) -> Figure:
    """Draws the optimised loss and that of the whole validation set against the meta-step, raw and smoothed, a row a condition.

    Bands are the range over seeds.
    """
    figure = Figure(figsize=(10, 1.5 * len(conditions) + 1))
    grid = figure.subplots(len(conditions), len(_WINDOWS), sharex=True, sharey="row", squeeze=False)
    columns = {"loss": "optimised loss", "queries_loss": "whole validation set", "validation_loss": "meta-validation"}
    for axes_w, condition in zip(grid, conditions, strict=True):
        rows = frame[frame.condition == condition]
        for axes, window in zip(axes_w, _WINDOWS, strict=True):
            for color, (column, label) in zip(COLORS, columns.items(), strict=False):
                table = rows.dropna(subset=[column]).pivot_table(index="step", columns="seed", values=column)
                if column != "validation_loss":
                    table = table.rolling(window, min_periods=window).mean().dropna()
                axes.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=color, alpha=0.2, linewidth=0)
                axes.plot(table.index, table.mean(axis=1), color=color, linewidth=0.9, label=label)
        axes_w[0].set_ylabel(condition.replace(", ", ",\n"), fontsize=7)
    for axes, window in zip(grid[0], _WINDOWS, strict=True):
        axes.set_title("raw" if window == 1 else f"mean over {window} meta-steps")
    for axes in grid[-1]:
        axes.set_xlabel("meta-step")
    return finished(figure, 3)


@styled
def inner_losses(frame: pd.DataFrame, column: str, condition: str) -> Figure:
    """Draws the loss along the inner loop, raw and smoothed: a row for a meta-step, a column for a problem.

    Args:
      frame: columns `step` and `column`, whose values are lists [problems][inner steps], None where an inner loop diverged.
      column: `inner_loss` or `inner_validation_loss`.
      condition: for the title.
    """
    frame = frame.sort_values("step")
    frame = frame.iloc[np.unique(np.linspace(0, len(frame) - 1, min(_ROWS, len(frame))).round().astype(int))]
    figure = Figure(figsize=(10, 0.8 * len(frame) + 1))
    grid = figure.subplots(len(frame), _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes_p, (_, row) in zip(grid, frame.iterrows(), strict=True):
        for axes, losses in zip(axes_p, row[column], strict=False):
            losses = np.asarray(losses, float)
            axes.plot(1 + np.arange(len(losses)), losses, color=COLORS[0], linewidth=0.5, alpha=0.5, label="raw")
            smooth = np.convolve(losses, np.full(_INNER_WINDOW, 1 / _INNER_WINDOW), "valid")
            axes.plot(_INNER_WINDOW + np.arange(len(smooth)), smooth, color=COLORS[1], linewidth=1, label="mean over 5 steps")
        axes_p[0].set_ylabel(f"step {row.step:.0f}", fontsize=7)
    return finished(figure, 2, f"{condition}: {column.replace('_', ' ')} along the inner loop, one problem a column")
