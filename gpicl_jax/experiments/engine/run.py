"""`gpicl experiment NAME`: trains the cells that the table lacks, a population at a time, then publishes the results."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from gpicl_jax.build import make_tasks
from gpicl_jax.experiments.engine.base import Experiment
from gpicl_jax.experiments.engine.files import found, publish
from gpicl_jax.experiments.engine.members import Member, Test, of_member
from gpicl_jax.experiments.engine.table import Cell, Row, Table, digest, units
from gpicl_jax.experiments.engine.timing import clock
from gpicl_jax.runs.folder import RunFolder, describe_run
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.settings import UserError, nearest, one_line
from gpicl_jax.training.divergence import Diverged, advice
from gpicl_jax.training.loop import train
from gpicl_jax.training.meta_test import held_out_tasks


@dataclass(frozen=True)
class Asked:
    """The options of the command, beside the experiment and its scale.

    Attributes:
      runs_dir, results_dir: the experiment's folders.
      part: (i, n): the i-th of every n units of work, counted from 1.
      command: the command line, for the record.
    """

    runs_dir: Path
    results_dir: Path
    part: tuple[int, int] = (1, 1)
    command: tuple[str, ...] = ("gpicl",)


class Work:
    """An experiment under way: its cells, its table, the folders of its runs."""

    def __init__(self, experiment: Experiment, asked: Asked) -> None:
        self.experiment, self.asked, self.cells = experiment, asked, _cells(experiment)
        self.table = Table(asked.results_dir / f"{experiment.scale}.csv", experiment.axes, self.cells)
        self.runs_dir = asked.runs_dir / experiment.scale

    def missing(self, unit: Sequence[Cell]) -> list[tuple[Cell, Experiment, list[dict[str, str]]]]:
        """Returns the cells that lack rows, each with the experiment that makes these, and with the rows that exist."""
        rows, found = self.table.rows(), []
        for cell in unit:
            there = rows.get(cell.key, [])
            scorer = None if any(row.get("diverged") for row in there) else self.experiment.left(there)
            found += [(cell, scorer, there)] if scorer else []
        return found

    def complete(self, unit: Sequence[Cell]) -> None:
        """Trains, scores and publishes what the unit lacks. It waits for another process that does the same."""
        unit = [cell for cell, *_ in self.missing(unit)]
        name = label(unit).replace(", ", "-").replace(" ", "_")
        folder = RunFolder(self.runs_dir / f"{name}-{digest(''.join(str((cell.key, cell.settings)) for cell in unit))}")
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.lock(wait=True):
            lacking = self.missing(unit)  # another process may have done some meanwhile
            if not lacking:
                return
            if len(lacking) < len(unit):  # the others are a population of their own
                return self.complete([cell for cell, *_ in lacking])
            if any(there for *_, there in lacking) and not (folder.path / "members.json").is_file():
                raise UserError(
                    f"{self.table.path} has scores of {label(unit)}, but {self.runs_dir} lacks the run that they are of; "
                    "give its --runs-dir, or another --results-dir"
                )
            rows = self._train(folder, lacking)
            with RunFolder(self.runs_dir).lock(wait=True):  # other parts write the same file
                self.table.add(rows)
                for cell, its_rows in rows:
                    print(f"    {cell}: {_told(cell, its_rows)}", flush=True)
                publish(self.experiment, self.table.frame(), self.asked.results_dir, self.runs_dir)

    def _train(self, folder: RunFolder, lacking: list[tuple[Cell, Experiment, Any]]) -> list[tuple[Cell, list[Row]]]:
        cells, record = [cell for cell, *_ in lacking], describe_run(list(self.asked.command), "pmap")
        about = {"commands": [], "notes": [{} for _ in cells]} | (folder.read_json("members.json") or {})
        begun = [self.experiment.begin(*each, self.asked) for each in zip(cells, about["notes"], strict=True)]
        about["members"] = [cell.record for cell in cells]
        about["commands"].append(record)
        about["notes"] = [notes for _, notes in begun]
        folder.write_json("members.json", about)
        members = self._members(folder, [config for config, _ in begun], about)
        commit, dirty, _ = (record["commit"] or "").partition("-dirty")
        rows = []
        for (cell, scorer, there), one in zip(lacking, members, strict=True):
            new = scorer.score(one) if one.diverged is None else [{"diverged": one.diverged}]
            if not new:
                raise UserError(f"experiment {self.experiment.name} scored nothing of {cell}; its score must return rows")
            each = {"steps": one.steps, "seconds": one.seconds, "commit": commit[:7] + dirty}
            rows.append((cell, [*there, *(row | each for row in new)]))
        return rows

    def _members(self, folder: RunFolder, configs: list[Any], about: dict[str, Any]) -> list[Member]:
        if not self.experiment.trains:
            return [Member(config) for config in configs]
        population = self.experiment.population(configs)
        params_M, records, steps = population.state().params, [], 0
        if jax.tree.leaves(params_M):
            with timed(folder, about):
                params_M = population.members(train(population, folder).state.params)
            records, steps = read_metrics(folder.path), population.config.train.steps
        test, device = Test(configs[0]), jax.local_devices()[0]
        return [
            Member(
                config,
                jax.device_put(jax.tree.map(lambda leaf_M, index=index: leaf_M[index], params_M), device),
                population.learner,
                test,
                of_member(records, index),
                about["notes"][index],
                steps,
                max((record["seconds"] for record in records), default=0.0) / len(configs),
                about.get("processor_seconds", 0.0),
            )
            for index, config in enumerate(configs)
        ]


@contextlib.contextmanager
def timed(folder: RunFolder, about: dict[str, Any]) -> Iterator[None]:
    """Adds the time of training by `clock` to that of interrupted commands. Later commands, which find it trained, add none.

    The time of a command that was killed is lost.
    """
    if about.get("trained", "processor_seconds" in about):
        yield
        return
    begun, about["trained"] = clock(), False
    try:
        yield
        about["trained"] = True
    finally:
        about["processor_seconds"] = about.get("processor_seconds", 0.0) + clock() - begun
        folder.write_json("members.json", about)


def run_experiment(experiment: Experiment, asked: Asked) -> int:
    """Trains and scores all unfinished cells, and updates table and figure after each unit. Returns the exit code.

    Raises:
      UserError: before training: a part without work, a table of another grid, a dataset or folder that cannot be used.
      Interrupted: a signal came. The same command continues.
    """
    work = Work(experiment, asked)
    mine = share(work)
    _check(work)
    failed = 0
    for number, unit in enumerate(mine, 1):
        missing = work.missing(unit)
        print(f"[{number}/{len(mine)}] {label(unit)}: {len(missing)} of {len(unit)} to do", flush=True)
        try:
            if missing:
                work.complete(unit)
        except BrokenPipeError:  # nobody reads what is told: no failure of this unit
            raise
        except (UserError, Diverged, MemoryError, OSError, jax.errors.JaxRuntimeError) as error:
            failed += 1
            print(f"gpicl: {label(unit)} failed: {one_line(error)}", file=sys.stderr, flush=True)
        finally:
            jax.clear_caches()
    print(found(experiment, work.table.frame(), asked.results_dir))
    files = [path for path in (work.table.path, work.table.path.with_suffix(".png")) if path.is_file()]
    print(f"table and figure: {', '.join(map(str, files)) or 'none yet'}", flush=True)
    return int(failed > 0)


def _cells(experiment: Experiment) -> list[Cell]:
    """Returns the cells of an experiment.

    Raises:
      UserError: no cell, a cell with other axes than the experiment, or two cells at one place in the grid.
    """
    cells, keys, name = experiment.cells(), set(), f"experiment {experiment.name}"
    if not cells:
        raise UserError(f"{name} has nothing to train at scale '{experiment.scale}': its table is empty; give it a place")
    for cell in cells:
        if tuple(cell.axes) != tuple(experiment.axes):
            raise UserError(
                f"{name} has a cell with the axes {', '.join(cell.axes)}, but axes = {experiment.axes}; make them agree"
            )
        if cell.key in keys:
            raise UserError(f"{name} has two cells at {cell}; each place in the grid is for one, add an axis or leave one out")
        keys.add(cell.key)
    return cells


def share(work: Work) -> list[list[Cell]]:
    """Returns the units of work of this part, of the cells that `--learners` or `--permute` choose.

    Raises:
      UserError: a value that the grid lacks, or a part without work.
    """
    experiment, (index, parts), wanted = work.experiment, work.asked.part, work.cells
    for axis, values in (("learner", experiment.learners), ("permute", experiment.permute)):
        known = dict.fromkeys(str(cell.axes.get(axis)) for cell in wanted)
        for value in map(str, values):
            if value not in known:
                raise UserError(f"no {axis} '{value}' in experiment {experiment.name}{nearest(value, known)}")
        wanted = [cell for cell in wanted if not values or cell.axes[axis] in values]
    every = units(wanted, experiment.together)
    if not (mine := every[index - 1 :: parts]):
        raise UserError(
            f"--part {index}/{parts}: this grid has {len(every)} units of work, fewer than {index}; give fewer parts"
        )
    return mine


def _check(work: Work) -> None:
    """Checks early what every unit needs: datasets, folders, the table."""
    by_data = {cell.config.data: cell.config for cell in work.cells}
    for config in by_data.values():
        for split in ("train", "validation"):
            make_tasks(config, split)
        held_out_tasks(config, work.experiment.datasets)
    for folder in (work.runs_dir, work.asked.results_dir):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --runs-dir or --results-dir") from None
    work.table.check(work.runs_dir)


def label(unit: Sequence[Cell]) -> str:
    """Returns what the cells of a unit have in common, as words."""
    common = [f"{name} {value}" for name, value in unit[0].axes.items() if all(cell.axes[name] == value for cell in unit)]
    return ", ".join(common) or "all"


def _told(cell: Cell, rows: list[Row]) -> str:
    if rows[0].get("diverged"):
        return f"diverged by step {rows[0]['diverged']}"
    scored = [row for row in rows if row.get("last") not in (None, "")]
    told = [" ".join(filter(None, [row.get("tasks"), row.get("dataset"), f"{float(row['last']):.3f}"])) for row in scored]
    if any(row.get("last", 0.0) is None for row in rows):
        told.append(f"elsewhere predictions are not finite: {advice(cell.config)}")
    return ", ".join(told) or "done"
