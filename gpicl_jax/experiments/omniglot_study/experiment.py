"""`gpicl experiment omniglot-maml`.

It runs the study's four meta-optimisers, one change at a time, then a search over inner and outer rate, decided by validation
problems. Accuracy after adaptation is that of the last four drawings of a problem, which no training and no validation sees.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.build import make_tasks
from gpicl_jax.evaluation import Scores, drawn_in_parts, unseen_episode_keys
from gpicl_jax.experiments.engine import Cell, Experiment, Grid, Member, Row, half_width, markdown
from gpicl_jax.experiments.engine.members import of_member
from gpicl_jax.experiments.omniglot_study.figures import inner_losses, meta_losses
from gpicl_jax.figures.style import COLORS, THIN, finished
from gpicl_jax.registry import register
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.sections import Config
from gpicl_jax.tasks.augmented import stream
from gpicl_jax.training.parallel import replicate
from gpicl_jax.training.population import Population
from gpicl_jax.training.step import Metrics, TrainState

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
_THREE = ("--learner.squash=false", "--learner.num_queries=0", "--data.standardize=true")
TOGETHER: dict[str, tuple[str, ...]] = {"logits, whole set, standardised": _THREE}
SEARCH: dict[str, tuple[str, ...]] = {
    f"these, inner rate {inner}, Adam {outer}": (*_THREE, f"--learner.inner_rate={inner}", f"--optimizer.learning_rate={outer}")
    for inner in ("0.03", "0.1", "0.3")
    for outer in ("1e-4", "1e-3", "1e-2")
}
CONDITIONS = STUDY | CHANGES | TOGETHER | SEARCH

_SMALL = ("--data.size=16", "--model.padding=SAME", "--train.steps=500", "--train.validate_every=100")
_SMOKE = (*_SMALL[:2], "--train.steps=4", "--train.validate_every=2", "--learner.inner_steps=6", "--eval.episodes=16")


class StudyPopulation(Population):
    """A population of `StudyMaml`.

    Records of steps also have `queries_loss`. Records of validations have `inner_loss` and `inner_validation_loss`, [M, 8, K],
    of eight problems that stay the same, and both as `untrained_…` for the weights before the first meta-step. None stands for
    what is not finite.
    """

    def record(self, metrics: Metrics) -> dict[str, Any]:
        return super().record(metrics) | {"queries_loss": _finite(self.members(metrics["queries_loss"]))}

    def validate(self, state: TrainState) -> tuple[dict[str, Any], None]:
        record, loss = super().validate(state)
        return record | self._inner_losses(state) | self._untrained, loss

    @functools.cached_property
    def _untrained(self) -> dict[str, Any]:
        return {f"untrained_{name}": losses for name, losses in self._inner_losses(self.state()).items()}

    def _inner_losses(self, state: TrainState) -> dict[str, Any]:
        problems, run = self._watched
        found = self.members(run(problems, state.params))
        return {name: _finite(np.round(losses_M8K.astype(float), 4)) for name, losses_M8K in found.items()}

    @functools.cached_property
    def _watched(self) -> tuple[Any, Callable[..., Any]]:
        """Eight problems of meta-training characters, and a function that returns the inner losses of all members on them."""
        keys = unseen_episode_keys(self.config.eval.seed, "validation", _WATCHED, 1)
        (part,) = drawn_in_parts(make_tasks(self.config, "train"), keys, self.config.tasks.permute_labels_prob)
        problems = replicate(jax.tree.map(lambda leaf: leaf[:, 0], part), self._devices)

        def of_member(problems: Any, params: Any) -> dict[str, jax.Array]:
            return jax.lax.map(lambda problem: self.learner.inner_losses(params, *problem), problems)

        return problems, self._spread(of_member, 1)


def _finite(values: np.ndarray) -> list[Any]:
    return np.where(np.isfinite(values), values, None).tolist()


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
        """Returns the grid. Conditions that differ only in the meta-optimiser's step size share a program."""
        return {(condition,): ("omniglot/study", *CONDITIONS[condition]) for condition in self.conditions}

    def cells(self) -> list[Cell]:
        """Returns the cells. The search has one seed."""
        return [cell for cell in super().cells() if cell.axes["condition"] not in SEARCH or not cell.axes["seed"]]

    def score(self, trained: Member) -> list[Row]:
        """Returns a row about meta-test problems, from the weights before and after meta-training, on the same problems.

        `last` is the accuracy on the four test drawings, and `loss` the mean cross-entropy of logits on them, nats. `gain` is
        the accuracy after meta-training minus that before, and `gain_standard_error` its error over problems. `validation_loss`
        is the mean cross-entropy of logits on validation problems at the end of meta-training. Accuracy and gain are missing
        where an inner loop diverged.
        """
        config = trained.config
        untrained = dataclasses.replace(trained, params=jax.jit(trained.learner.init)(stream(config.train.seed, "init")))
        length = config.tasks.length + _TEST_DRAWINGS
        before, after = (each.unseen(config.data.train[0], length=length) for each in (untrained, trained))
        gain_P = (after.accuracy_TSL - before.accuracy_TSL)[..., -_TEST_DRAWINGS:].mean(axis=(1, 2))
        gain = {"gain": None, "gain_standard_error": None}
        if before.finite and after.finite:
            gain = {"gain": gain_P.mean(), "gain_standard_error": gain_P.std(ddof=1) / len(gain_P) ** 0.5}
        validated = [record["validation_loss"] for record in trained.records if "validation_loss" in record]
        return [_row(before, "before"), _row(after, "after") | gain | {"validation_loss": validated[-1]}]

    def population(self, configs: list[Config]) -> StudyPopulation:
        return StudyPopulation(configs)

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns the table, and the condition of the search that is best on validation problems."""
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
        """Draws accuracy after adaptation, before and after meta-training, and gains with intervals. A mark is a seed."""
        summary = summarise(frame).iloc[::-1].reset_index(drop=True)
        figure = Figure(figsize=(9, 0.28 * len(summary) + 1.6))
        accuracy, gain = figure.subplots(1, 2, sharey=True)
        heights = pd.Series(summary.index, summary.condition)
        for number, when in enumerate(("before", "after")):
            runs = frame[frame.tasks == when]
            style = {"color": COLORS[number], "alpha": 0.7, "markersize": 4, "label": f"{when} meta-training"}
            accuracy.plot(runs["last"], runs.condition.map(heights), "os"[number], **style)
        gain.errorbar(summary.gain, summary.index, xerr=summary.interval, fmt="o", color=COLORS[2], markersize=4, capsize=2)
        accuracy.set_yticks(heights, heights.index)
        accuracy.axvline(0.5, **THIN)
        gain.axvline(0, **THIN)
        accuracy.set(xlabel="accuracy after adaptation, meta-test problems", title=self.scale)
        gain.set(xlabel="gained by meta-training, 95% interval")
        return finished(figure, 2)

    def files(self, frame: pd.DataFrame, runs_dir: Path | None) -> dict[str, Figure]:
        """Draws the study's own plots, from the members' training records and settings in `frame`."""
        records = pd.DataFrame(_records(frame, runs_dir) if runs_dir else ())
        if records.empty:
            return {}
        trained = set(records.condition)
        drawn = {
            f"_meta_loss_{name}.png": meta_losses(records, [each for each in conditions if each in trained])
            for name, conditions in {"study": STUDY, "changes": CHANGES | TOGETHER, "search": SEARCH}.items()
            if trained & set(conditions)
        }
        shown = next(name for name in (_BASE, *CONDITIONS) if name in trained)
        one = records[(records.condition == shown) & (records.seed == records.seed.min())]
        for name in ("inner_loss", "inner_validation_loss"):
            if name in one and one[name].notna().any():
                drawn[f"_{name}.png"] = inner_losses(one, name, shown)
        return drawn


def _records(frame: pd.DataFrame, runs_dir: Path) -> Iterator[dict[str, Any]]:
    about = ["condition", "seed", "settings"]
    done = set(frame[about].astype(str).itertuples(index=False, name=None))
    for path in sorted(runs_dir.glob("*/members.json")):
        folder = RunFolder(path.parent)
        records = read_metrics(folder.path)
        for index, member in enumerate((folder.read_json("members.json") or {}).get("members", [])):
            if tuple(str(member.get(name)) for name in about) in done:
                yield from (member | record for record in of_member(records, index))


def _row(scores: Scores, when: str) -> Row:
    last, error = scores.accuracy(slice(-_TEST_DRAWINGS, None)) if scores.finite else (None, None)
    loss = float(scores.loss_TSL[..., -_TEST_DRAWINGS:].mean()) if scores.finite else None
    return {"tasks": when, "last": last, "last_standard_error": error, "loss": loss, "episodes": scores.episodes}


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each condition: means over seeds of the accuracy `before` and `after`, the losses, and the `gain` with
    its half-width `interval` of 95%. They are NaN where an inner loop diverged.
    """
    rows = []
    for condition, after in frame[frame.tasks == "after"].groupby("condition", sort=False):
        before = frame[(frame.tasks == "before") & (frame.condition == condition)]
        seeds = {"before": before["last"], "after": after["last"], "gain": after.gain}
        seeds |= {"loss_before": before.loss, "loss_after": after.loss}
        about = {"condition": condition, "seeds": len(after), "episodes": after.episodes.max()}
        about["interval"] = half_width(after.gain, after.gain_standard_error)
        rows.append(about | {name: values.mean(skipna=False) for name, values in seeds.items()})
    return pd.DataFrame(rows)
