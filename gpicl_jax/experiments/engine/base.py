"""What an experiment is: a class with the cells that it trains, their scores, and the figure."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gpicl_jax.config import load_config
from gpicl_jax.experiments.engine.members import Member, ends
from gpicl_jax.experiments.engine.table import Cell, Row
from gpicl_jax.experiments.engine.words import markdown, mean_and_deviation
from gpicl_jax.registry import find, names
from gpicl_jax.sections import MAX_TASKS, Config, short_name
from gpicl_jax.settings import UserError, nearest
from gpicl_jax.training.population import Population

# What makes a scale `smoke` of most experiments: the digits, and few steps.
SMOKE = ("--data.train=digits", "--train.steps=40", "--train.chunk=20", "--train.validate_every=40", "--eval.episodes=256")
MANY_TASKS = f"--tasks.num_tasks={MAX_TASKS}"  # as good as infinitely many, and traced: members may have fewer
_MEASURED = {"first": "accuracy, first example", "last": "accuracy, last tenth", "loss": "loss, nats"}

Grid = dict[tuple[Any, ...], tuple[str, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One table or figure.

    A subclass registers under its name on the command line, and needs no dataclass decorator. The first line of its docstring
    is its text in `gpicl experiment --help`. Its fields all have defaults, and a scale can set them.

    Attributes:
      scales: by name, the values of the fields at that scale.
      axes: names of the cells' axes. The last one is `seed`.
      takes: options of the command line beside `--seeds`: `learners`, `permute`, `datasets`, `seconds`, each a field.
      trains: whether it trains anything.
      counts_diverged: whether `summary` and `figure` also get the rows of members that diverged.
      validation_permute: chance that validation tasks permute their labels. None: as in the training of the first member.
      name: name on the command line.
      scale: a name in `scales`.
      data_dir: folder of prepared TFDS sets.
      seeds: number of meta-training seeds, 0 to `seeds` − 1.
      together: largest number of members of one program.
      configs: folder of the cells' configs.
      overrides: settings that replace those of these configs.
      datasets: base datasets of the meta-test. They must be available before anything is trained.
      learners: values of the axis `learner` to train. All are trained if it is empty.
      permute: the same of the axis `permute`.
    """

    name: str
    scale: str
    data_dir: str = ""
    seeds: int = 1
    together: int = 1
    configs: str = "laptop"
    overrides: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()
    permute: tuple[float, ...] = ()

    room, needs, given = "experiment", ("scales", "axes", "table"), ("name", "scale")
    scales = axes = None
    takes = ()
    trains = True
    counts_diverged = False
    validation_permute = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    @property
    def folder(self) -> str:
        """The name of its folder in `runs` and `results`."""
        return self.name.replace("-", "_")

    def table(self) -> Grid:
        """Returns by the values of all axes but the seed, in order: the name of a config, and settings that replace its own.

        Cells that differ in traced numbers alone, such as seeds, share a program.
        """
        raise NotImplementedError

    def cells(self) -> list[Cell]:
        """Returns all cells, in the order of the CSV."""
        grid = self.table()
        for values in grid:
            if not isinstance(values, tuple) or len(values) != len(self.axes) - 1:
                of = f"({', '.join(self.axes[:-1])})"
                raise UserError(f"experiment {self.name}: its table has the key {values!r}; expected a tuple of values {of}")
        return [
            self.cell(dict(zip(self.axes, (*values, seed), strict=True)), *settings)
            for values, settings in grid.items()
            for seed in range(self.seeds)
        ]

    def cell(self, axes: dict[str, Any], config: str, *overrides: str) -> Cell:
        """Returns the cell at `axes`. Its settings are those of a config, then of the experiment, then `overrides`."""
        settings = (f"--data.dir={self.data_dir}", *self.overrides, *overrides, f"--train.seed={axes['seed']}")
        return Cell(axes, load_config(config, settings))

    def score(self, trained: Member) -> list[Row]:
        """Returns a trained member's rows, without the axes' columns. The default: unseen tasks, a row for each dataset."""
        datasets = self.datasets or trained.config.data.train
        return [ends(trained.unseen(name), tasks="unseen", dataset=short_name(name)) for name in datasets]

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns the findings in words and numbers. The default is means ± standard deviations over seeds."""
        by = [name for name in (*self.axes[:-1], "tasks", "dataset") if name in frame] or ["settings"]
        groups, values = frame.groupby(by, sort=False), [name for name in _MEASURED if name in frame]
        found = groups[values].agg(mean_and_deviation).assign(seeds=groups.size()).reset_index()
        return markdown(found.rename(columns=_MEASURED).columns, found.to_numpy())

    def figure(self, frame: pd.DataFrame) -> Figure | None:
        """Returns the figure of the rows, or None."""
        del frame

    def files(self, frame: pd.DataFrame, runs_dir: Path | None) -> dict[str, str | Figure]:
        """Returns further texts and figures, by the end of their file names after the scale. `runs_dir` may be unknown."""
        del frame, runs_dir
        return {}

    def population(self, configs: list[Config]) -> Population:
        """Returns the population that trains the members of a unit."""
        return Population(configs, validation_permute_prob=self.validation_permute)

    def begin(self, cell: Cell, notes: dict[str, Any], asked: Any) -> tuple[Config, dict[str, Any]]:
        """Returns the config to train, and notes about it.

        Args:
          cell: the cell to train.
          notes: notes of an earlier command that began to train this cell, or empty.
          asked: an `Asked`.
        """
        del notes, asked
        return cell.config, {}

    def before(self, cells: list[Cell], asked: Any) -> list[Cell]:
        """Returns the cells of another table, one unit of work each, that are trained before `cells` and lack rows."""
        del cells, asked
        return []

    def left(self, there: list[dict[str, str]]) -> "Experiment | None":
        """Returns the experiment that makes the rows that a cell lacks beside `there`, or None where it lacks none."""
        return None if there else self

    def with_options(self, **given: Any) -> "Experiment":
        """Returns the experiment with options of the command line. Empty options change nothing.

        Raises:
          UserError: the experiment does not take one of them.
        """
        given = {option: tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value for option, value in given.items()}
        given = {option: value for option, value in given.items() if value}
        for option in given:
            if option not in self.takes:
                able = [name for name in names("experiment") if option in find("experiment", name).takes]
                raise UserError(f"--{option} is of experiment {' and '.join(able)} alone; leave it out for {self.name}")
        return dataclasses.replace(self, **given)


def make_experiment(name: str, scale: str) -> Experiment:
    """Returns the experiment `name` at one of its scales.

    Raises:
      UserError: no experiment or no scale has this name.

    Example:
      >>> make_experiment("scaling", "smoke").together
      3
    """
    kind = find("experiment", name)
    if scale not in kind.scales:
        raise UserError(f"no scale '{scale}' of experiment {name}{nearest(scale, kind.scales)}")
    if tuple(kind.axes[-1:]) != ("seed",):
        raise UserError(f"experiment {name} has axes = {kind.axes}; expected 'seed' as the last one")
    for field in set(kind.scales[scale]) - {each.name for each in dataclasses.fields(kind)}:
        raise UserError(f"scale '{scale}' of experiment {name} sets {field}, which {kind.__name__} lacks")
    return kind(name=name, scale=scale, **kind.scales[scale])
