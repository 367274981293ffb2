"""`gpicl experiment NAME`: trains the cells that the CSV lacks, a population at a time, then draws the figure."""

import io
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.build import make_tasks
from gpicl_jax.experiments.grid import Cell, Row, Table, digest, units
from gpicl_jax.experiments.trained import Member, Test, member
from gpicl_jax.files import write_atomic
from gpicl_jax.runs.folder import RunFolder, describe_run
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.settings import UserError, nearest, one_line
from gpicl_jax.training.divergence import advice
from gpicl_jax.training.loop import train
from gpicl_jax.training.meta_test import held_out_tasks
from gpicl_jax.training.population import Population
from gpicl_jax.training.step import TrainState


@dataclass(frozen=True)
class Scale:
    """How much of an experiment.

    Attributes:
      seeds: meta-training seeds, 0 to `seeds` − 1.
      together: members of one program at most.
      grid: what the experiment's own `cells` makes of it.
    """

    seeds: int
    together: int
    grid: Any


@dataclass(frozen=True)
class Experiment:
    """One figure of the paper, or of ours.

    Attributes:
      name: as on the command line.
      about: in a few words.
      scales: by name.
      axes: of its cells; `seed` is one.
      cells: of a scale's `grid` and the number of seeds.
      score: of a trained member and a scale's `grid` the member's rows, without the columns of the axes.
      figure: of the rows, and the name of the scale.
      summary: of the rows, the findings in words and numbers; what the README of its results says comes from here.
      datasets: to meta-test on, of a scale's `grid`; must be there before anything is trained.
      validation_permute: chance of validation tasks to permute their labels; None: as in the training of the first member.
      watch: of a population, what its training records beside losses; see `train`.
      curves: figures by name, drawn from the axes and the records of all members that there are.
      takes_datasets: whether the person who runs it names the datasets, which replace those of the grid.
    """

    name: str
    about: str
    scales: dict[str, Scale]
    axes: tuple[str, ...]
    cells: Callable[[Any, int], list[Cell]]
    score: Callable[[Member, Any], list[Row]]
    figure: Callable[[pd.DataFrame, str], Figure]
    summary: Callable[[pd.DataFrame], str]
    datasets: Callable[[Any], tuple[str, ...]]
    validation_permute: float | None = None
    watch: Callable[[Population], Callable[[TrainState], dict[str, Any]]] | None = None
    curves: Callable[[list[tuple[dict[str, Any], list[dict[str, Any]]]]], dict[str, Figure]] | None = None
    takes_datasets: bool = False

    @property
    def folder(self) -> str:
        """Of its runs and results."""
        return self.name.replace("-", "_")

    @property
    def results_dir(self) -> Path:
        """Where table and figure go, unless another is given."""
        return Path("results") / self.folder

    def scale(self, name: str) -> Scale:
        if name not in self.scales:
            raise UserError(f"no scale '{name}' of experiment {self.name}{nearest(name, self.scales)}")
        return self.scales[name]


@dataclass(frozen=True)
class Asked:
    """What a person asked for.

    Attributes:
      scale: a name.
      seeds: replaces the scale's where given.
      part: (i, n): of every n units of work the i-th, counted from 1.
      datasets: of an experiment that takes them.
      data_dir: folder of prepared TFDS sets.
      runs_dir, results_dir: of this experiment.
      command: for the record.
    """

    scale: str
    runs_dir: Path
    results_dir: Path
    seeds: int | None = None
    part: tuple[int, int] = (1, 1)
    datasets: tuple[str, ...] = ()
    data_dir: str = ""
    command: tuple[str, ...] = field(default=("gpicl",))


def run_experiment(experiment: Experiment, asked: Asked) -> int:
    """Trains and scores what is not done, and brings CSV and figure up to date after each unit; returns the exit code.

    Raises:
      UserError: an unknown scale, a part without work, a CSV of another grid, a dataset or folder that cannot be used; before
        anything is trained.
      Interrupted: by a signal; the same command goes on.
    """
    scale = experiment.scale(asked.scale)
    if asked.datasets:
        if "datasets" not in scale.grid._fields or not experiment.takes_datasets:
            raise UserError(f"experiment {experiment.name} has its own datasets; leave out --datasets")
        scale = replace(scale, grid=scale.grid._replace(datasets=asked.datasets))
    cells = experiment.cells(scale.grid, asked.seeds or scale.seeds)
    if asked.data_dir:
        cells = [_with_data_dir(cell, asked.data_dir) for cell in cells]
    table = Table(asked.results_dir / f"{asked.scale}.csv", experiment.axes, cells)
    work, (index, parts) = units(cells, scale.together), asked.part
    mine = work[index - 1 :: parts]
    if not mine:
        raise UserError(
            f"--part {index}/{parts}: this grid has {len(work)} units of work, fewer than {index}; give fewer parts"
        )
    _check(experiment, scale, cells, asked)
    table.check()
    failed = 0
    for number, unit in enumerate(mine, 1):
        missing = [cell for cell in unit if cell.key not in table.done()]
        print(f"[{number}/{len(mine)}] {_label(unit)}: {len(missing)} of {len(unit)} to do", flush=True)
        if not missing:
            continue
        try:
            rows = _train_unit(experiment, scale, missing, asked)
        except BrokenPipeError:  # nobody reads what is told: no failure of this unit
            raise
        except (UserError, MemoryError, OSError, jax.errors.JaxRuntimeError) as error:
            failed += 1
            print(f"gpicl: {_label(unit)} failed: {one_line(error)}", file=sys.stderr, flush=True)
            continue
        finally:
            jax.clear_caches()
        with RunFolder(asked.runs_dir / asked.scale).lock(wait=True):  # other parts write the same file
            table.add(rows)
            if _any_scored(frame := table.frame()):
                draw(experiment, asked.scale, frame, asked.results_dir)
            draw_curves(experiment, asked.scale, frame, asked.runs_dir, asked.results_dir)
        for cell, its_rows in rows:
            print(f"    {cell}: {_told(cell, its_rows)}", flush=True)
    print(_found(experiment, table.frame()))
    print(f"table and figure: {table.path}, {table.path.with_suffix('.png')}", flush=True)
    return int(failed > 0)


def redraw(experiment: Experiment, scale: str, results_dir: Path) -> str:
    """Draws the figure again from the CSV in `results_dir`; returns the summary and where the figure is.

    Raises:
      UserError: an unknown scale, no such CSV, one of another grid, or one without a whole cell.
    """
    experiment.scale(scale)
    datasets = " --datasets TRAIN.npz [OTHER.npz …]" if experiment.takes_datasets else ""
    there = "" if results_dir == experiment.results_dir else f" --results-dir {shlex.quote(str(results_dir))}"
    command = f"gpicl experiment {experiment.name} --scale {scale}{datasets}{there}"
    table = Table(results_dir / f"{scale}.csv", experiment.axes)
    if not table.path.is_file():
        raise UserError(f"no {table.path}; make it with: {command}")
    table.check()
    frame = table.frame()
    if frame.empty:
        raise UserError(f"{table.path} holds no whole cell; run: {command}")
    if _any_scored(frame):
        draw(experiment, scale, frame, results_dir)
    broken = (
        f"\nlines of cells that are not whole, left out: {table.broken}; to make them again: {command}" if table.broken else ""
    )
    return f"{_found(experiment, frame)}{broken}\nfigure: {table.path.with_suffix('.png')}"


def _any_scored(frame: pd.DataFrame) -> bool:
    """Whether a member did not diverge."""
    return len(frame) > 0 and ("diverged" not in frame or bool(frame.diverged.isna().any()))


def _found(experiment: Experiment, frame: pd.DataFrame) -> str:
    """The experiment's summary, and the members that diverged."""
    lines = [experiment.summary(frame)] if _any_scored(frame) else []
    if "diverged" in frame and len(gone := frame.loc[frame.diverged.notna(), list(experiment.axes)]):
        told = (", ".join(f"{name} {value}" for name, value in row.items()) for row in gone.to_dict("records"))
        lines.append(f"diverged: {'; '.join(told)}")
    return "\n".join(lines)


def draw(experiment: Experiment, scale: str, frame: pd.DataFrame, results_dir: Path) -> None:
    """Writes the figure of the rows that there are."""
    image = io.BytesIO()
    experiment.figure(frame, scale).savefig(image, format="png")
    write_atomic(results_dir / f"{scale}.png", lambda file: file.write(image.getvalue()))


def draw_curves(experiment: Experiment, scale: str, frame: pd.DataFrame, runs_dir: Path, results_dir: Path) -> None:
    """Draws what the experiment makes of the `metrics.jsonl` in `runs_dir`, of the members and settings in `frame` alone."""
    if experiment.curves is None:
        return
    names, runs = [*experiment.axes, "settings"], []
    done = set(frame[names].astype(str).itertuples(index=False, name=None)) if len(frame) else set()
    for path in sorted((runs_dir / scale).glob("*/members.json")):
        folder = RunFolder(path.parent)
        records = read_metrics(folder.path)
        for index, about in enumerate((folder.read_json("members.json") or {}).get("members", [])):
            if records and tuple(str(about.get(name)) for name in names) in done:
                runs.append((about, of_member(records, index)))
    for name, figure in experiment.curves(runs).items() if runs else ():
        image = io.BytesIO()
        figure.savefig(image, format="png")
        write_atomic(results_dir / f"{scale}_{name}.png", lambda file, image=image: file.write(image.getvalue()))


def of_member(records: list[dict[str, Any]], index: int) -> list[dict[str, Any]]:
    """The records of a population, with what belongs to one member where there is a value for each.

    Example:
      >>> of_member([{"step": 5, "loss": [0.1, 0.2]}], 1)
      [{'step': 5, 'loss': 0.2}]
    """
    return [{name: value[index] if isinstance(value, list) else value for name, value in record.items()} for record in records]


def _with_data_dir(cell: Cell, folder: str) -> Cell:
    return replace(cell, config=replace(cell.config, data=replace(cell.config.data, dir=folder)))


def _check(experiment: Experiment, scale: Scale, cells: Sequence[Cell], asked: Asked) -> None:
    """Refuses now what a unit would refuse later: datasets, folders."""
    by_data = {cell.config.data: cell.config for cell in cells}
    for config in by_data.values():
        for split in ("train", "validation"):
            make_tasks(config, split)
        held_out_tasks(config, experiment.datasets(scale.grid))
    for folder in (asked.runs_dir / asked.scale, asked.results_dir):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --runs-dir or --results-dir") from None


def _label(unit: Sequence[Cell]) -> str:
    """What the cells of a unit have in common."""
    common = [f"{name} {value}" for name, value in unit[0].axes.items() if all(cell.axes[name] == value for cell in unit)]
    return ", ".join(common) or "all"


def _train_unit(experiment: Experiment, scale: Scale, cells: list[Cell], asked: Asked) -> list[tuple[Cell, list[Row]]]:
    name = _label(cells).replace(", ", "-").replace(" ", "_") + "-" + digest("".join(str((c.key, c.settings)) for c in cells))
    folder = RunFolder(asked.runs_dir / asked.scale / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.lock():
        record = describe_run(list(asked.command), "pmap")
        members = [{**cell.axes, "settings": cell.settings} for cell in cells]
        folder.write_json("members.json", {"members": members, "last_command": record})
        configs = [cell.config for cell in cells]
        population = Population(configs, validation_permute_prob=experiment.validation_permute)
        trained = train(population, folder, watch=experiment.watch and experiment.watch(population))
        all_records, params_M = read_metrics(folder.path), population.members(trained.state.params)
        test = Test(configs[0], population.learner)
        about = {
            "steps": configs[0].train.steps,
            "seconds": max((record["seconds"] for record in all_records), default=0.0) / len(cells),
            "commit": (record["commit"] or "")[:7],
        }
        found = []
        for index, cell in enumerate(cells):
            records = of_member(all_records, index)
            diverged = next((record["step"] for record in records if record.get("loss", 0.0) is None), None)
            one = Member(cell.config, member(params_M, index), records, diverged, test)
            rows = experiment.score(one, scale.grid) if diverged is None else [{"diverged": diverged}]
            found.append((cell, [row | about for row in rows]))
        return found


def _told(cell: Cell, rows: list[Row]) -> str:
    if "diverged" in rows[0]:
        return f"diverged by step {rows[0]['diverged']}"
    found = [
        " ".join([row["tasks"], *filter(None, [row.get("dataset")]), f"{row['last']:.3f}"])
        for row in rows
        if row.get("last") is not None
    ]
    if any(row.get("last", 0.0) is None for row in rows):
        found.append(f"elsewhere predictions are not finite: {advice(cell.config)}")
    return ", ".join(found) or "done"
