"""What an experiment publishes: its figures and texts, from the rows of its table."""

import shlex
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
from gpicl_jax.settings import UserError


def publish(experiment: Experiment, frame: pd.DataFrame, results_dir: Path) -> list[Path]:
    """Writes the figure of the rows that there are, and the texts; nothing where all members diverged."""
    if not any_scored(frame):
        return []
    figure = write_png(results_dir / f"{experiment.scale}.png", experiment.figure, frame)
    texts = {results_dir / f"{experiment.scale}{ending}": text for ending, text in experiment.texts(frame).items()}
    for path, text in texts.items():
        write_atomic(path, lambda file, text=text: file.write(text.encode()))
    return [*texts, *([figure] if figure else [])]


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
