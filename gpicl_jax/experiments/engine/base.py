"""What an experiment is: a class that says which cells it trains, how it scores one, and what its figure shows."""

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

    A subclass registers under its name on the command line, and needs no decorator of its own to be a dataclass. The first line
    of its docstring is what `gpicl experiment --help` says. Its fields, all with defaults, are what a scale can set.

    Attributes:
      scales: by name, the values of the fields at that scale.
      axes: names of the cells' axes; `seed` is the last one.
      takes: options of the command line beside `--seeds`: `learners`, `datasets`, `seconds`, each a field.
      trains: whether there is anything to train.
      counts_diverged: whether `summary` and `figure` are made of the rows of members that diverged, too.
      validation_permute: chance of validation tasks to permute their labels; None: as in the training of the first member.
      name: as on the command line.
      scale: a name in `scales`.
      data_dir: folder of prepared TFDS sets.
      seeds: meta-training seeds, 0 to `seeds` − 1.
      together: members of one program at most.
      configs: folder of the cells' configs.
      overrides: settings that replace those of these configs.
      datasets: to meta-test on; they must be there before anything is trained.
      learners: values of the axis `learner` that are wanted; all where empty.
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
        """The name of its folder among the runs and the results."""
        return self.name.replace("-", "_")

    def table(self) -> Grid:
        """Returns by values of all axes but the seed, in order: the name of a config, and settings that replace its own.

        Cells that differ in traced numbers alone, such as the seeds of one place, share a program.
        """
        raise NotImplementedError

    def cells(self) -> list[Cell]:
        """Returns what is trained, in the order of the CSV."""
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
        """Returns the cell at `axes`, with the settings of a config, of this experiment, and of the cell; later ones count."""
        settings = (f"--data.dir={self.data_dir}", *self.overrides, *overrides, f"--train.seed={axes['seed']}")
        return Cell(axes, load_config(config, settings))

    def score(self, trained: Member) -> list[Row]:
        """Returns the rows of a trained member, without the columns of the axes: here unseen tasks, a row for each dataset."""
        datasets = self.datasets or trained.config.data.train
        return [ends(trained.unseen(name), tasks="unseen", dataset=short_name(name)) for name in datasets]

    def summary(self, frame: pd.DataFrame) -> str:
        """Returns the findings in words and numbers from the rows of the table: here means ± standard deviations over seeds."""
        by = [name for name in (*self.axes[:-1], "tasks", "dataset") if name in frame] or ["settings"]
        groups, values = frame.groupby(by, sort=False), [name for name in _MEASURED if name in frame]
        found = groups[values].agg(mean_and_deviation).assign(seeds=groups.size()).reset_index()
        return markdown(found.rename(columns=_MEASURED).columns, found.to_numpy())

    def figure(self, frame: pd.DataFrame) -> Figure | None:
        """Returns the figure of the rows, or None."""
        del frame

    def files(self, frame: pd.DataFrame, runs_dir: Path | None) -> dict[str, str | Figure]:
        """Returns further texts and figures by what follows the scale in their names; `runs_dir` may be unknown."""
        del frame, runs_dir
        return {}

    def population(self, configs: list[Config]) -> Population:
        """Returns what trains the members of a unit."""
        return Population(configs, validation_permute_prob=self.validation_permute)

    def begin(self, cell: Cell, notes: dict[str, Any], asked: Any) -> tuple[Config, dict[str, Any]]:
        """Returns the config that is trained, and notes about it.

        Args:
          cell: which one.
          notes: those of an earlier command that began to train this cell; else empty.
          asked: an `Asked`.
        """
        del notes, asked
        return cell.config, {}

    def left(self, there: list[dict[str, str]]) -> "Experiment | None":
        """Returns the experiment that scores what a cell lacks, of which some rows are there; None where it lacks nothing."""
        return None if there else self

    def with_options(self, **given: Any) -> "Experiment":
        """Returns the experiment with options of the command line; empty ones change nothing.

        Raises:
          UserError: one that it does not take.
        """
        given = {option: tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value for option, value in given.items()}
        given = {option: value for option, value in given.items() if value}
        for option in given:
            if option not in self.takes:
                able = [name for name in names("experiment") if option in find("experiment", name).takes]
                raise UserError(f"--{option} is of experiment {' and '.join(able)} alone; leave it out for {self.name}")
        return dataclasses.replace(self, **given)


def make_experiment(name: str, scale: str) -> Experiment:
    """Returns the experiment of that name at one of its scales.

    Raises:
      UserError: there is no such experiment, or no such scale.

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
