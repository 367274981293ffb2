"""The figures and texts that an experiment publishes, from the rows of its table."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from gpicl_jax.experiments.engine.base import Experiment
from gpicl_jax.experiments.engine.table import Table
from gpicl_jax.figures.style import write_png
from gpicl_jax.files import write_atomic
from gpicl_jax.registry import import_options
from gpicl_jax.settings import UserError, one_line


def publish(experiment: Experiment, frame: pd.DataFrame, results_dir: Path, runs_dir: Path | None = None) -> list[Path]:
    """Writes the figure of the rows and the experiment's `files`. Returns their paths, none where all members diverged.

    Raises:
      UserError: a method of the experiment fails.
    """
    rows = _scored(experiment, frame)
    if rows.empty:
        return []
    stem = str(results_dir / experiment.scale)
    written = [_asked(experiment, "figure", results_dir, lambda draw: write_png(Path(f"{stem}.png"), draw, rows))]
    for ending, made in _asked(experiment, "files", results_dir, lambda make: make(rows, runs_dir)).items():
        path = Path(stem + ending)
        if isinstance(made, str):
            written.append(write_atomic(path, lambda file, text=made: file.write(text.encode())))
        else:
            written.append(write_png(path, lambda figure=made: figure))
    return [path for path in written if path]


def redraw(experiment: Experiment, results_dir: Path) -> str:
    """Publishes the table in `results_dir` again. Returns the summary and the names of the written files.

    Raises:
      UserError: no such table, a table of another grid or without a whole cell, or a method of the experiment fails.
    """
    command = _command("experiment", experiment, results_dir)
    table = Table(results_dir / f"{experiment.scale}.csv", experiment.axes)
    if not table.path.is_file():
        raise UserError(f"no {table.path}; make it with: {command}")
    table.check()
    frame = table.frame()
    if frame.empty:
        raise UserError(f"{table.path} holds no whole cell; run: {command}")
    written = publish(experiment, frame, results_dir)
    lines = [found(experiment, frame, results_dir)]
    if table.broken:
        lines.append(f"lines of cells that are not whole, left out: {table.broken}; to make them again: {command}")
    return "\n".join([*lines, f"written: {', '.join(map(str, written)) or 'nothing; there is no figure'}"])


def found(experiment: Experiment, frame: pd.DataFrame, results_dir: Path) -> str:
    """Returns the experiment's summary, and a line about the members that diverged.

    Raises:
      UserError: the summary fails.
    """
    rows = _scored(experiment, frame)
    lines = [] if rows.empty else [_asked(experiment, "summary", results_dir, lambda summary: summary(rows))]
    if "diverged" in frame and len(gone := frame.loc[frame.diverged.notna(), list(experiment.axes)]):
        told = (", ".join(f"{name} {value}" for name, value in row.items()) for row in gone.to_dict("records"))
        lines.append(f"diverged: {'; '.join(told)}")
    return "\n".join(lines)


def _scored(experiment: Experiment, frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows that summary and figure use: those of members that did not diverge."""
    whole = frame[frame.diverged.isna()].reset_index(drop=True) if "diverged" in frame else frame
    return frame if experiment.counts_diverged and len(whole) else whole


def _asked(experiment: Experiment, method: str, results_dir: Path, ask: Callable[[Any], Any]) -> Any:
    """Returns what `ask` makes of a method of the experiment. An error in it becomes a UserError of one line."""
    try:
        return ask(getattr(experiment, method))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"experiment {experiment.name}: its {method} raises {type(error).__name__}: {one_line(error)}; the results are "
            f"kept in {results_dir / experiment.scale}.csv: mend it, then {_command('figure', experiment, results_dir)}"
        ) from error


def _command(verb: str, experiment: Experiment, results_dir: Path) -> str:
    """Returns the command that trains or draws the results in `results_dir`."""
    needs_datasets = verb == "experiment" and "datasets" in experiment.takes and not experiment.datasets
    datasets = " --datasets TRAIN.npz [OTHER.npz …]" if needs_datasets else ""
    elsewhere = results_dir != Path("results") / experiment.folder
    there = f" --results-dir {shlex.quote(str(results_dir))}" if elsewhere else ""
    return f"gpicl {verb} {experiment.name} --scale {experiment.scale}{datasets}{there}{import_options()}"
