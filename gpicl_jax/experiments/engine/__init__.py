"""The engine of all experiments: a table of what is done, units that share a program, members and their scores."""

from gpicl_jax.experiments.engine.base import MANY_TASKS, SMOKE, Experiment, Grid, make_experiment
from gpicl_jax.experiments.engine.members import Member, ends
from gpicl_jax.experiments.engine.table import Cell, Row
from gpicl_jax.experiments.engine.words import half_width, markdown, mean_and_deviation

__all__ = [
    "MANY_TASKS",
    "SMOKE",
    "Cell",
    "Experiment",
    "Grid",
    "Member",
    "Row",
    "ends",
    "half_width",
    "make_experiment",
    "markdown",
    "mean_and_deviation",
]
