"""`gpicl experiment omniglot-maml`: a public study of MAML on Omniglot, and what held it back.

Its four meta-optimisers, one change at a time, then a search over the inner and the outer rate, which validation problems
decide. Accuracy after adaptation is that of the last four drawings of a problem, which no training and no validation sees.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax import figures
from gpicl_jax.build import make_tasks
from gpicl_jax.config import load_config
from gpicl_jax.evaluation import Scores, drawn_in_parts, unseen_episode_keys
from gpicl_jax.experiments.grid import Cell, Row
from gpicl_jax.experiments.run import Experiment, Scale
from gpicl_jax.experiments.trained import Member, half_width
from gpicl_jax.tasks.augmented import stream
from gpicl_jax.training.population import Population
from gpicl_jax.training.step import TrainState

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


class Grid(NamedTuple):
    """Attributes:

    conditions: names in `CONDITIONS`.
    overrides: settings that replace those of the study's config.
    """

    conditions: tuple[str, ...]
    overrides: tuple[str, ...] = ()


def cells(grid: Grid, seeds: int) -> list[Cell]:
    """All of them, the search with one seed; conditions that differ in the meta-optimiser's step size alone share a program."""
    return [
        Cell(
            {"condition": condition, "seed": seed},
            load_config("omniglot/study", (*grid.overrides, *CONDITIONS[condition], f"--train.seed={seed}")),
        )
        for condition in grid.conditions
        for seed in range(1 if condition in SEARCH else seeds)
    ]


def score(trained: Member, grid: Grid) -> list[Row]:
    """Adaptation to meta-test problems from the weights before and after meta-training, on the same problems.

    `last` is the accuracy on the four test drawings; `loss` the mean cross-entropy of logits on them, nats; `gain` and
    `gain_standard_error` are of the accuracy after less that before, problem by problem. Errors are over problems.
    `validation_loss` is the mean cross-entropy of logits on validation problems at the end of meta-training. There is no
    accuracy and no gain where an inner loop diverged.
    """
    config, learner = trained.config, trained.test.learner
    untrained = trained.with_params(jax.jit(learner.init)(stream(config.train.seed, "init")))
    before, after = (_tested(each) for each in (untrained, trained))
    gain_P = (after.accuracy_TSL - before.accuracy_TSL)[..., -_TEST_DRAWINGS:].mean(axis=(1, 2))
    gain = {"gain": None, "gain_standard_error": None}
    if before.finite and after.finite:
        gain = {"gain": gain_P.mean(), "gain_standard_error": gain_P.std(ddof=1) / len(gain_P) ** 0.5}
    validated = [record["validation_loss"] for record in trained.records if "validation_loss" in record]
    return [_row(before, "before"), _row(after, "after") | gain | {"validation_loss": validated[-1]}]


def _tested(trained: Member) -> Scores:
    return trained.unseen(trained.config.data.train[0], length=trained.config.tasks.length + _TEST_DRAWINGS)


def _row(scores: Scores, when: str) -> Row:
    if not scores.finite:
        return {"tasks": when, "last": None, "last_standard_error": None, "loss": None, "episodes": scores.episodes}
    accuracy, error = scores.accuracy(slice(-_TEST_DRAWINGS, None))
    loss = float(scores.loss_TSL[..., -_TEST_DRAWINGS:].mean())
    return {"tasks": when, "last": accuracy, "last_standard_error": error, "loss": loss, "episodes": scores.episodes}


def watch(population: Population) -> Callable[[TrainState], dict[str, Any]]:
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

    def found(state: TrainState) -> dict[str, Any]:
        names = ("inner_loss", "inner_validation_loss")
        rounded = (np.round(np.asarray(values, float), 4) for values in run(state))
        return {name: np.where(np.isfinite(each), each, None).tolist() for name, each in zip(names, rounded, strict=True)}

    return found


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each condition: means over seeds of the accuracy `before` and `after`, the `gain` with the half-width
    `interval` of 95%, and the losses; NaN where the inner loop of a seed diverged."""
    rows = []
    for condition, part in frame.groupby("condition", sort=False):
        before, after = (part[part.tasks == when] for when in ("before", "after"))
        if after.empty:
            continue
        interval = half_width(after.gain, after.gain_standard_error)
        means = {
            "before": before["last"],
            "after": after["last"],
            "gain": after.gain,
            "loss_before": before.loss,
            "loss_after": after.loss,
        }
        about = {"condition": condition, "seeds": len(after), "interval": interval, "episodes": after.episodes.max()}
        rows.append(about | {name: values.mean(skipna=False) for name, values in means.items()})
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> str:
    """The table."""
    lines = [
        "| condition | accuracy before | after | gain, 95% | loss before | after | seeds × problems |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summarise(frame).itertuples():
        values = (row.before, row.after, row.loss_before, row.loss_after)
        before, after, *losses = ("diverges" if pd.isna(value) else f"{value:.3f}" for value in values)
        gain = "–" if pd.isna(row.gain) else f"{row.gain:+.3f} ± {row.interval:.3f}"
        problems = f"{row.seeds} × {row.episodes:.0f}"
        lines.append(f"| {' | '.join((row.condition, before, after, gain, *losses, problems))} |")
    searched = frame[frame.condition.isin(SEARCH) & (frame.tasks == "after")].dropna(subset=["validation_loss"])
    if not searched.empty:
        best = searched.loc[searched.validation_loss.idxmin()]
        told = f"'{best.condition}' has the lowest validation loss, {best.validation_loss:.3f}."
        lines.append(f"\nOf {len(searched)} in the search, {told}")
    return "\n".join(lines)


def curves(runs: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> dict[str, Figure]:
    """The study's own plots, from the records of the runs that there are: the axes and the records of each member."""
    frame = pd.DataFrame(
        [
            {"condition": axes["condition"], "seed": axes["seed"]} | record
            for axes, records in runs
            for record in records
            if axes["condition"] in CONDITIONS
        ]
    )
    drawn = {
        f"meta_loss_{name}": figures.meta_losses(frame[frame.condition.isin(conditions)], list(conditions))
        for name, conditions in {"study": STUDY, "changes": CHANGES | TOGETHER, "search": SEARCH}.items()
        if frame.condition.isin(conditions).any()
    }
    shown = next((name for name in (_BASE, *CONDITIONS) if (frame.condition == name).any()), _BASE)
    inner = frame[(frame.condition == shown) & (frame.seed == frame.seed.min())]
    for name in ("inner_loss", "inner_validation_loss"):
        if name in inner and inner[name].notna().any():
            drawn[name] = figures.inner_losses(inner.dropna(subset=[name]), name, shown)
    return drawn


def draw(frame: pd.DataFrame, scale: str) -> Figure:
    """Gains, condition by condition."""
    return figures.omniglot_maml(frame, scale, summarise(frame))


_SMALL = ("--data.size=16", "--model.padding=SAME", "--train.steps=500", "--train.validate_every=100")
_SMOKE = (*_SMALL[:2], "--train.steps=4", "--train.validate_every=2", "--learner.inner_steps=6", "--eval.episodes=16")

EXPERIMENT = Experiment(
    name="omniglot-maml",
    about="a public study of MAML on Omniglot, and what held it back",
    scales={
        "smoke": Scale(1, 2, Grid((_BASE, "logits", next(iter(SEARCH))), _SMOKE)),
        "laptop": Scale(4, 2, Grid(tuple(CONDITIONS), _SMALL)),
        "paper": Scale(3, 3, Grid(tuple(CONDITIONS))),
    },
    axes=("condition", "seed"),
    cells=cells,
    score=score,
    figure=draw,
    summary=summary,
    datasets=lambda grid: (),
    watch=watch,
    curves=curves,
)
