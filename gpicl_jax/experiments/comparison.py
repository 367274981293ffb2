"""`gpicl experiment comparison`.

Before its first cell a learner tries a few settings on validation tasks, each for a quarter of a cell's time. Test tasks
measure the best setting.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.experiments.comparison_rows import BESIDE, ROWS, curriculum
from gpicl_jax.experiments.comparison_trials import Trials, best_trial
from gpicl_jax.experiments.engine import Cell, Experiment, Grid, Member, Row, markdown
from gpicl_jax.experiments.engine.run import Asked, Work
from gpicl_jax.experiments.engine.survival import steps_to_leave
from gpicl_jax.experiments.engine.timing import seconds_per_prediction, steps_within, with_steps
from gpicl_jax.experiments.engine.words import student
from gpicl_jax.figures.style import THIN, finished, panels, top_down
from gpicl_jax.paper import paper_table
from gpicl_jax.registry import register
from gpicl_jax.sections import Config, learner_name, short_name
from gpicl_jax.settings import UserError
from gpicl_jax.training.divergence import Diverged, advice
from gpicl_jax.training.step import num_params

_LEFT = "left_seconds", "left_episodes"
_SETS = ("mnist", "fashion_mnist", "kmnist", "random", "cifar10")
_SMOKE = ("--data.train=digits", "--eval.episodes=32", "--train.chunk=2", "--tasks.length=50")


@register("comparison")
class Comparison(Experiment):
    """Every learner under one protocol.

    Attributes:
      sizes: height and width of the images, and their channels.
      seconds: meta-training time of a cell by `clock`, without compilation. 0 trains for the number of steps of its config.
      trials: how many settings a learner may try.
      rows: names in `ROWS`.
      beside: whether rows have what they have beside a curriculum.
      curriculum: whether meta-training begins with recall.
      validations: how often a cell is validated, to see when it leaves the plateau.
    """

    sizes: tuple[tuple[int, int], ...] = ((8, 1),)
    seconds: float = 0.0
    trials: int = 0
    rows: tuple[str, ...] = tuple(ROWS)
    beside: bool = False
    curriculum: bool = False
    validations: int = 1
    seeds: int = 3
    datasets: tuple[str, ...] = _SETS

    axes = ("learner", "size", "channels", "budget_seconds", "seed")
    takes = ("learners", "datasets", "seconds")
    scales = {
        "smoke": dict(seeds=1, datasets=("digits", "random"), seconds=2.0, trials=2, overrides=_SMOKE),
        "laptop": dict(seconds=600.0, trials=3),
        "curriculum": dict(seconds=600.0, trials=3, beside=True, curriculum=True, validations=40),
        "without": dict(seconds=600.0, trials=3, beside=True, rows=tuple(BESIDE), validations=40),
        "paper": dict(configs="paper", sizes=((14, 1), (32, 3)), datasets=(*_SETS, "svhn_cropped")),
    }

    def with_options(self, **given: Any) -> "Comparison":
        if given.get("seconds") and not self.seconds:
            raise UserError(
                f"--seconds {given['seconds']:g}: scale '{self.scale}' trains for the steps of its configs; leave it out"
            )
        return super().with_options(**given)

    def table(self) -> Grid:
        found = {}
        for row, (size, channels) in itertools.product(self.rows, self.sizes):
            images = f"--data.size={size}", f"--data.channels={channels}"
            more = (*(BESIDE.get(row, ()) if self.beside else ()), *(curriculum(row) if self.curriculum else ()))
            found[row, size, channels, self.seconds] = (f"comparison/{self.configs}/{row}", *images, *more)
        return found

    def cells(self) -> list[Cell]:
        """Returns the cells, seed by seed: all rows get their first seed before any gets its second."""
        return sorted(super().cells(), key=lambda cell: cell.axes["seed"])

    def cell(self, axes: dict[str, Any], config: str, *overrides: str) -> Cell:
        return super().cell(axes, config, *overrides, f"--eval.seed={axes['seed']}")

    def begin(self, cell: Cell, notes: dict[str, Any], asked: Asked) -> tuple[Config, dict[str, Any]]:
        """Returns the config with the setting that its trials chose, and with as many steps as fit into the time."""
        if not self.seconds:
            return cell.config, {"chosen": "", "seconds_per_step": 0.0}
        if not notes:
            chosen = self._choose(cell, asked)
            per_step = float(chosen["seconds_per_step"])
            notes = {"chosen": chosen["overrides"], "seconds_per_step": per_step}
            notes["steps"] = steps_within(self.seconds, per_step, cell.config.train.chunk)
        settings = self.table()[tuple(cell.axes.values())[:-1]]
        return with_steps(self.cell(cell.axes, *settings, notes["chosen"]).config, notes["steps"], self.validations), notes

    def before(self, cells: list[Cell], asked: Asked) -> list[Cell]:
        """Returns the trials of the learners and image sizes of `cells` that lack rows."""
        if not self.seconds:
            return []
        work, places = self._trials(asked), {cell.key[:3] for cell in cells}
        return [each for each in work.cells if each.key[:3] in places and work.missing([each])]

    def _trials(self, asked: Asked) -> Work:
        return Work(Trials(name=self.name, scale=f"{self.scale}_trials", of=self), asked)

    def _choose(self, cell: Cell, asked: Asked) -> dict[str, str]:
        """Returns the row of the best trial of the cell's learner at its image size.

        Raises:
          Diverged: all trials diverged.
        """
        work = self._trials(asked)
        work.table.check(work.runs_dir)
        for each in self.before([cell], asked):
            work.complete([each])
        found, trials = work.table.rows(), [each for each in work.cells if each.key[:3] == cell.key[:3]]
        rows = [found[each.key][0] for each in trials]
        best, learned = best_trial(rows, 1 / cell.config.tasks.classes_per_task)
        if best is None:
            raise Diverged(f"all {len(rows)} trials of {cell.axes['learner']} diverged; {advice(trials[0].config)}")
        mark = "chosen" if learned else "kept: none is better than chance by four standard errors"
        for row in rows:
            told = row.get("validation_last") or "diverged"
            print(f"    trial {row['overrides']}: {told}{f'  ← {mark}' if row is best else ''}", flush=True)
        return best

    def left(self, there: list[dict[str, str]]) -> "Comparison | None":
        """Returns the comparison on those datasets that have no scores yet. They are scored without new training."""
        done = {row["dataset"] for row in there}
        datasets = tuple(name for name in self.datasets if short_name(name) not in done)
        return dataclasses.replace(self, datasets=datasets) if datasets else None

    def score(self, trained: Member) -> list[Row]:
        """Returns a row for each dataset: accuracy of the first row, the last tenth and the last row, on unseen tasks."""
        costs, rows = self._costs(trained), []
        for name in self.datasets:
            scores = trained.unseen(name, keep=False, permute_labels_prob=1.0)  # one protocol for all rows
            if not scores.finite:
                told = f"predictions of {learner_name(trained.config)} on {name} are not finite"
                raise Diverged(f"{told}; {advice(trained.config)}")
            last, error = scores.last()
            found = {"dataset": short_name(name), "first": scores.first()[0], "last": last}
            last_row = scores.accuracy(slice(-1, None))[0]
            rows.append(costs | found | {"last_row": last_row, "standard_error": error, "episodes": scores.episodes})
        return rows

    def _costs(self, trained: Member) -> Row:
        """Returns the cost of training, seconds per 1,000 episodes and per prediction, and the sizes of the learner."""
        tasks, learner = trained.config.tasks, trained.learner
        each_step = tasks.tasks_per_step * tasks.sequences_per_task
        per_step = trained.notes["seconds_per_step"] or trained.seconds / max(trained.steps, 1)
        left = steps_to_leave(trained.records, tasks.classes_per_task) if self.validations > 1 else None
        return {
            "chosen": trained.notes["chosen"],
            "training_seconds": trained.processor_seconds,
            "train_episodes": trained.steps * each_step,
            "seconds_per_1000_episodes": 1000 * per_step / each_step,
            "microseconds_per_episode": 1e6 * seconds_per_prediction(learner, trained.params, trained.config),
            "num_params": num_params(trained.params),
            "state_size": learner.state_size(tasks.length),
            "left_seconds": left and left * per_step,
            "left_episodes": left and left * each_step,
        }

    def summary(self, frame: pd.DataFrame) -> str:
        tables = [_markdown(part) for _, part in summarise(frame).groupby(["size", "channels"], sort=False)]
        return "\n".join([*tables, _leaving(frame, self.seconds)] if self.validations > 1 else tables)

    def files(self, frame: pd.DataFrame, runs_dir: Path | None) -> dict[str, str]:
        """Returns the table of means, as Markdown and as CSV."""
        return {".md": self.summary(frame), "_table.csv": summarise(frame).to_csv(index=False, float_format="%.6g")}

    def figure(self, frame: pd.DataFrame) -> Figure:
        """Draws a panel for each dataset, with 95% intervals. Crosses are the paper's results for rows of the same name."""
        table = summarise(frame)
        theirs = paper_table("comparison").query("source == 'paper'")
        theirs = theirs.replace({"method": {"transformer": "transformer_paper", "maml": "maml_online"}})
        width, height = 2.3 * table.dataset.nunique() + 1.5, 0.28 * table.learner.nunique() + 1.3
        figure, axes_of = panels(table.dataset.unique(), width, height)
        for dataset, axes in axes_of.items():
            for number, ((size, channels), rows) in enumerate(table.groupby(["size", "channels"], sort=False)):
                rows = rows[rows.dataset == dataset]
                label = f"{size}×{size}×{channels}, last tenth; 95% interval over {rows.seeds.max()} seeds, within 0 … 1"
                style = {"color": f"C{number}", "markersize": 4, "label": label}
                half = rows.interval.fillna(0)
                within = np.minimum(half, rows["mean"]), np.minimum(half, 1 - rows["mean"])
                axes.errorbar(rows["mean"], rows.learner, xerr=within, fmt="o^s"[number], **style)
            marks = theirs[(theirs.dataset == dataset) & theirs.method.isin(table.learner)]
            style = {"color": "C3", "markersize": 6, "label": "the paper, 32×32×3, last example"}
            axes.plot(marks.accuracy, marks.method, "x", **style)
            axes.set(title=dataset, xlabel="accuracy", xlim=(0, 1.02))
            axes.axvline(0.1, **THIN, label="chance")
            axes.grid(axis="y", linewidth=0.3)
        top_down(figure)
        return finished(figure, 4)


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns means over seeds and the half-width of their 95% interval (NaN for one seed), by learner and dataset."""
    times = ("training_seconds", "wall_seconds", "train_episodes", "seconds_per_1000_episodes", "microseconds_per_episode")
    frame = frame.dropna(subset=["last"]).rename(columns={"seconds": "wall_seconds"})
    grouped = frame.groupby(["learner", "size", "channels", "dataset"], sort=False)
    table = grouped.agg(
        mean=("last", "mean"),
        seeds=("last", "count"),
        interval=("last", student),
        **{name: (name, "mean") for name in ("last_row", *times)},
        **{name: (name, "first") for name in ("num_params", "state_size", "chosen")},
    )
    return table.assign(interval=table.interval.where(table.seeds > 1)).reset_index()


def _leaving(frame: pd.DataFrame, cap: float) -> str:
    """Returns how many seeds of a learner left the plateau, and when, earliest to latest. Untrained rows are on none.

    Its seconds are steps times the seconds of a step, without compilation and validations.
    """
    rows, frame = [], frame[frame.train_episodes > 0]
    for learner, runs in frame.drop_duplicates(["learner", "seed"]).groupby("learner", sort=False):
        left = runs.dropna(subset=["left_seconds"])
        ends = [f"{left[name].min():,.0f} – {left[name].max():,.0f}" if len(left) else "–" for name in _LEFT]
        rows.append([f"`{learner}`", f"{len(left)} of {len(runs)}", *ends])
    return markdown(["", f"left the plateau in {cap:.0f} s", "seconds of steps", "episodes"], rows)


def _markdown(table: pd.DataFrame) -> str:
    """Returns a table with rows of learners, columns of datasets and costs, and published rows below."""
    datasets = list(table.dataset.unique())
    size, channels = table["size"].iloc[0], table["channels"].iloc[0]
    costs = ["parameters", "state", "trained on", "s per 1,000", "µs per episode"]
    caption = (
        f"Images of {size}×{size}×{channels}: accuracy in percent on unseen tasks and test images, mean over the last tenth of "
        "an episode, ± 95% interval over meta-training seeds, and in brackets after the last example alone. Then parameters, "
        "numbers carried from example to example, meta-training episodes, seconds for 1,000 of them, microseconds for each "
        "predicted episode. Beside a learner's name stands its number of seeds. Rows in italics are other people's, after the "
        "last example alone, on images of other sizes (gpicl_jax/reference)."
    )
    lines = []
    for learner, rows in table.groupby("learner", sort=False):
        cells = {row.dataset: f"{_percent(row.mean, row.interval)} ({100 * row.last_row:.1f})" for row in rows.itertuples()}
        one = rows.iloc[0]
        about = [f"{one.num_params:,.0f}", f"{one.state_size:,.0f}", f"{one.train_episodes:,.0f}"]
        about += [f"{one.seconds_per_1000_episodes:.3g}", f"{one.microseconds_per_episode:.0f}"]
        lines.append([f"`{learner}` ({rows.seeds.min()})", *(cells.get(name, "–") for name in datasets), *about])
    for (source, method), rows in paper_table("comparison").groupby(["source", "method"], sort=False):
        cells = {row.dataset: _percent(row.accuracy, np.nan) for row in rows.itertuples()}
        if set(cells) & set(datasets):
            lines.append([f"*{source}: {method}*", *(cells.get(name, "–") for name in datasets), *[""] * len(costs)])
    return f"{caption}\n\n{markdown(['', *datasets, *costs], lines)}\n"


def _percent(mean: float, interval: float) -> str:
    return f"{100 * mean:.1f}" + ("" if np.isnan(interval) else f" ± {100 * interval:.1f}")
