"""What an experiment publishes: its figures and texts, from the rows of its table."""

import shlex
from pathlib import Path

import pandas as pd

from gpicl_jax.experiments.engine.base import Experiment
from gpicl_jax.experiments.engine.table import Table
from gpicl_jax.figures.style import write_png
from gpicl_jax.files import write_atomic
from gpicl_jax.registry import import_options
from gpicl_jax.settings import UserError


def publish(experiment: Experiment, frame: pd.DataFrame, results_dir: Path, runs_dir: Path | None = None) -> None:
    """Writes the figure of the rows that there are, and the experiment's `files`; nothing where all members diverged."""
    if not any_scored(frame):
        return
    write_png(results_dir / f"{experiment.scale}.png", experiment.figure, frame)
    for ending, made in experiment.files(frame, runs_dir).items():
        path = results_dir / f"{experiment.scale}{ending}"
        if isinstance(made, str):
            write_atomic(path, lambda file, text=made: file.write(text.encode()))
        else:
            write_png(path, lambda figure=made: figure)


def redraw(experiment: Experiment, results_dir: Path) -> str:
    """Publishes again what the table in `results_dir` holds; returns the summary and where the figure is.

    Raises:
      UserError: no such table, one of another grid, or one without a whole cell.
    """
    datasets = "" if experiment.datasets or "datasets" not in experiment.takes else " --datasets TRAIN.npz [OTHER.npz …]"
    elsewhere = results_dir != Path("results") / experiment.folder
    there = f" --results-dir {shlex.quote(str(results_dir))}" if elsewhere else ""
    command = f"gpicl experiment {experiment.name} --scale {experiment.scale}{datasets}{there}{import_options()}"
    table = Table(results_dir / f"{experiment.scale}.csv", experiment.axes)
    if not table.path.is_file():
        raise UserError(f"no {table.path}; make it with: {command}")
    table.check()
    frame = table.frame()
    if frame.empty:
        raise UserError(f"{table.path} holds no whole cell; run: {command}")
    publish(experiment, frame, results_dir)
    broken = (
        f"\nlines of cells that are not whole, left out: {table.broken}; to make them again: {command}" if table.broken else ""
    )
    return f"{found(experiment, frame)}{broken}\nfigure: {table.path.with_suffix('.png')}"


def any_scored(frame: pd.DataFrame) -> bool:
    """Returns whether a member did not diverge."""
    return len(frame) > 0 and ("diverged" not in frame or bool(frame.diverged.isna().any()))


def found(experiment: Experiment, frame: pd.DataFrame) -> str:
    """Returns the experiment's summary, and the members that diverged."""
    lines = [experiment.summary(frame)] if any_scored(frame) else []
    if "diverged" in frame and len(gone := frame.loc[frame.diverged.notna(), list(experiment.axes)]):
        told = (", ".join(f"{name} {value}" for name, value in row.items()) for row in gone.to_dict("records"))
        lines.append(f"diverged: {'; '.join(told)}")
    return "\n".join(lines)
