"""What an experiment publishes: its figures and texts, from the rows of its table."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from gpicl_jax.experiments.engine.base import Experiment
from gpicl_jax.experiments.engine.members import of_member
from gpicl_jax.experiments.engine.table import Table
from gpicl_jax.figures.style import write_png
from gpicl_jax.files import write_atomic
from gpicl_jax.registry import import_options
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.settings import UserError, one_line


def publish(experiment: Experiment, frame: pd.DataFrame, results_dir: Path) -> list[Path]:
    """Writes the figure of the rows that there are, and the texts; returns their paths, none where all members diverged.

    Raises:
      UserError: a method of the experiment fails.
    """
    rows = _scored(experiment, frame)
    if rows.empty:
        return []
    path = results_dir / f"{experiment.scale}.png"
    figure = _asked(experiment, "figure", results_dir, lambda draw: write_png(path, draw, rows))
    texts = _asked(experiment, "texts", results_dir, lambda write: write(rows))
    written = [
        write_atomic(results_dir / f"{experiment.scale}{ending}", lambda file, text=text: file.write(text.encode()))
        for ending, text in texts.items()
    ]
    return [figure, *written] if figure else written


def redraw(experiment: Experiment, results_dir: Path) -> str:
    """Publishes again what the table in `results_dir` holds; returns the summary and what was written.

    Raises:
      UserError: no such table, one of another grid, or one without a whole cell; or a method of the experiment fails.
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
    """Returns the experiment's summary, and the members that diverged.

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
    """Returns the rows that summary and figure are made of: those of members that did not diverge."""
    whole = frame[frame.diverged.isna()].reset_index(drop=True) if "diverged" in frame else frame
    return frame if experiment.counts_diverged and len(whole) else whole


def _asked(experiment: Experiment, method: str, results_dir: Path, ask: Callable[[Any], Any]) -> Any:
    """Returns what `ask` makes of a method of the experiment, whose error is told in one line."""
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
    """Returns the command that makes or draws what is in `results_dir`."""
    needs_datasets = verb == "experiment" and "datasets" in experiment.takes and not experiment.datasets
    datasets = " --datasets TRAIN.npz [OTHER.npz …]" if needs_datasets else ""
    elsewhere = results_dir != Path("results") / experiment.folder
    there = f" --results-dir {shlex.quote(str(results_dir))}" if elsewhere else ""
    return f"gpicl {verb} {experiment.name} --scale {experiment.scale}{datasets}{there}{import_options()}"


def draw_curves(experiment: Experiment, frame: pd.DataFrame, runs_dir: Path, results_dir: Path) -> None:
    """Draws the experiment's `curves` from the `metrics.jsonl` in `runs_dir`, of the members and settings in `frame` alone."""
    if type(experiment).curves is Experiment.curves:
        return
    names = [*experiment.axes, "settings"]
    runs: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    done = set(frame[names].astype(str).itertuples(index=False, name=None)) if len(frame) else set()
    for path in sorted(runs_dir.glob("*/members.json")):
        folder = RunFolder(path.parent)
        records = read_metrics(folder.path)
        for index, about in enumerate((folder.read_json("members.json") or {}).get("members", [])):
            if records and tuple(str(about.get(name)) for name in names) in done:
                runs.append((about, of_member(records, index)))
    for name, figure in experiment.curves(runs).items() if runs else ():
        write_png(results_dir / f"{experiment.scale}_{name}.png", lambda figure=figure: figure)
