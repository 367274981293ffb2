"""`gpicl train --dry-run` and `gpicl experiment --dry-run`: what a job would do and need. Nothing is trained or written."""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import pandas as pd

from gpicl_jax.bench.compile import Compiled, compile_for
from gpicl_jax.bench.compile_command import row_of, table
from gpicl_jax.bench.targets import GIB, Target, find_target, prepare
from gpicl_jax.experiments.engine.base import Experiment
from gpicl_jax.experiments.engine.run import Asked, Work, label, share
from gpicl_jax.experiments.engine.table import Cell
from gpicl_jax.hyper import compiled_part, hyper_from
from gpicl_jax.sections import Config
from gpicl_jax.training.program import make_program

_KEPT = 2  # checkpoints of a run: the latest and the best; a population keeps the latest alone
_COUNTED = """\
disk: the latest checkpoint of every unit; while another is saved there are two"""
_COUNTED_TIME = """\
hours: seconds of a step by the roofline's estimate × steps × members of a device, without compilation and evaluation
memory: arguments, and for each member of a device its state and a step's temporaries"""


class CountedProgram(NamedTuple):
    """A program of meta-training.

    Attributes:
      number: from 1, in the order of the units. 0: nothing is meta-learned.
      state: bytes of a member's checkpoint.
      compiled: for one device of the target, if there is one.
    """

    number: int = 0
    state: int = 0
    compiled: Compiled | None = None


class Unit(NamedTuple):
    """What is to do of a unit of work.

    Attributes:
      name: what its cells have in common.
      members: how many are trained.
      scored: how many are scored alone: their training is done, or their learner has nothing to learn.
      program: number of the program that trains them, from 1. 0: none.
      steps: of each member. 0 where time limits them.
      seconds: of each member's training, where time limits it, else 0.
      disk: bytes of its checkpoint.
      hours: by the roofline's estimate, on the target. 0 without one.
      memory: bytes on each device of the target. 0 without one.
      fits: whether a device has the memory.
      room: how many members would fit on a device.
    """

    name: str
    members: int
    scored: int
    program: int
    steps: int
    seconds: float
    disk: int
    hours: float = 0.0
    memory: float = 0.0
    fits: bool = True
    room: float = math.inf


def state_bytes(config: Config) -> int:
    """Returns the bytes of a run's checkpoint: parameters, optimiser's state, step. 0 where nothing is meta-learned.

    Example:
      >>> from gpicl_jax.config import load_config
      >>> state_bytes(load_config("digits", ("--learner.name=sgd", "--model.name=mlp")))
      0
    """
    state = jax.eval_shape(make_program(config).init, hyper_from(config))
    learned = jax.tree.leaves(state.params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.stored)) if learned else 0


def units_to_do(
    experiment: Experiment, asked: Asked, target: Target | None = None, programs: dict[Config, CountedProgram] | None = None
) -> Iterator[Unit]:
    """Yields the units of work that lack rows, those of trials first. A program is compiled once, for one device.

    Args:
      target: its devices share the members of a unit.
      programs: programs that are known, by what is compiled in. New ones are added.

    Raises:
      UserError: a part without work, a table of another grid, or a program that cannot be compiled.
    """
    programs = {} if programs is None else programs
    numbers: dict[Config, int] = {}
    for cells, scored in _to_do(experiment, asked):
        if not cells or not experiment.trains or not (program := _program(cells[0].config, target, programs, numbers)).state:
            yield Unit(label([*cells, *scored]), 0, len(cells) + len(scored), 0, 0, 0.0, 0)
            continue
        seconds = cells[0].axes.get("budget_seconds", 0.0)
        unit = Unit(
            name=label([*cells, *scored]),
            members=len(cells),
            scored=len(scored),
            program=program.number,
            steps=0 if seconds else cells[0].config.train.steps,
            seconds=seconds,
            disk=len(cells) * program.state,
        )
        yield _on(target, unit, program) if target else unit


def _to_do(experiment: Experiment, asked: Asked) -> Iterator[tuple[list[Cell], list[Cell]]]:
    """Yields for each unit the cells to train, and those that were trained and lack rows."""
    work = Work(experiment, asked)
    mine = share(work)
    work.table.check(work.runs_dir)
    missing = [work.missing(unit) for unit in mine]
    for cell in experiment.before([cell for each in missing for cell, _, there in each if not there], asked):
        yield [cell], []
    for each in filter(None, missing):
        yield [cell for cell, _, there in each if not there], [cell for cell, _, there in each if there]


def _program(
    config: Config, target: Target | None, programs: dict[Config, CountedProgram], numbers: dict[Config, int]
) -> CountedProgram:
    """Returns the program that trains `config`. What only evaluates does not tell two apart."""
    key = dataclasses.replace(compiled_part(config), eval=Config().eval)
    if key not in programs:
        state = state_bytes(config)
        one = target and Target(target.name, target.chip, (1,) * len(target.shape))
        programs[key] = CountedProgram(state=state, compiled=compile_for(config, one, "pmap") if one and state else None)
    return programs[key]._replace(number=numbers.setdefault(key, len(numbers) + 1) if programs[key].state else 0)


def _on(target: Target, unit: Unit, program: CountedProgram) -> Unit:
    """Returns the unit with its hours and memory on a target. Members of a device take their steps under one `vmap`."""
    compiled, usable = program.compiled, target.chip.usable
    each = -(-unit.members // target.num_chips)
    member = program.state + compiled.temporaries
    shared = compiled.arguments - program.state
    seconds = each * (unit.seconds or unit.steps * compiled.seconds)
    memory = shared + each * member
    return unit._replace(hours=seconds / 3600, memory=memory, fits=memory <= usable, room=(usable - shared) // member)


def dry_experiment(experiment: Experiment, asked: Asked, target_name: str | None) -> int:
    """Prints a line for each unit of work that is to do, and last a line of totals. Returns 1 where one does not fit, else 0.

    Raises:
      UserError: see `units_to_do`.
    """
    target = _prepared(target_name)
    units = []
    for unit in units_to_do(experiment, asked, target):
        units.append(unit)
        print(_told(unit, target), flush=True)
    print(_COUNTED, *([_COUNTED_TIME] if target else []), sep="\n")
    print(f"total: {told_total(totals(units), target)}")
    return 0 if all(unit.fits for unit in units) else 1


def totals(units: list[Unit]) -> dict[str, float]:
    """Returns sums over units, by name. `steps` are those of all members, and `memory_gib` is the largest."""
    frame = pd.DataFrame(units, columns=Unit._fields)
    return {
        "units": len(frame),
        "members": frame.members.sum(),
        "scored": frame.scored.sum(),
        "programs": frame.program[frame.program > 0].nunique(),
        "steps": (frame.members * frame.steps).sum(),
        "seconds": (frame.members * frame.seconds).sum(),
        "hours": frame.hours.sum(),
        "memory_gib": frame.memory.max() / GIB,
        "do_not_fit": int((~frame.fits.astype(bool)).sum()),
        "disk_gb": frame.disk.sum() / 1e9,
    }


def told_total(total: dict[str, float], target: Target | None) -> str:
    """Returns the totals in one line."""
    parts = [
        f"{total['units']} unit{'s' * (total['units'] != 1)} of work",
        f"{total['members']:,} members to train",
        *([f"{total['scored']:,} to score alone"] if total["scored"] else []),
        f"{total['programs']} programs",
        f"{total['steps']:,} steps",
        *([f"{total['seconds']:,.0f} s of training limited by time"] if total["seconds"] else []),
        f"{_size(1e9 * total['disk_gb'])} of checkpoints",
    ]
    if target:
        fits = f"{total['do_not_fit']} units do not fit" if total["do_not_fit"] else "all units fit"
        parts += [f"{total['hours']:,.1f} hours on {target.name} by the roofline's estimate", fits]
    return ", ".join(parts)


def dry_train(name: str, config: Config, target_name: str | None, parallel: str) -> int:
    """Prints the steps, episodes and checkpoints of a run, and for a target what `gpicl compile` prints.

    Returns 1 where the run does not fit, else 0.

    Raises:
      UserError: see `compile_for`.
    """
    target = _prepared(target_name)
    state, tasks = state_bytes(config), config.tasks
    row = row_of(name, config, parallel, compile_for(config, target, parallel)) if target and state else None
    steps, each = config.train.steps if state else 0, tasks.tasks_per_step * tasks.sequences_per_task
    print(f"{name}: {steps:,} steps of {each:,} episodes, {steps * each:,} in all")
    if not state:
        print("nothing to meta-learn: the meta-test alone")
        return 0
    print(f"disk: {_KEPT} checkpoints, the latest and the best, {_size(state)} each: {_size(_KEPT * state)}")
    if not row:
        return 0
    print(table(row))
    return 0 if row["fits"] else 1


def _prepared(target_name: str | None) -> Target | None:
    prepare()
    return find_target(target_name) if target_name else None


def _told(unit: Unit, target: Target | None) -> str:
    scored = [f"{unit.scored} to score alone"] if unit.scored else []
    if not unit.members:
        return f"{unit.name}: {', '.join(scored)}"
    each = f"{unit.seconds:g} s" if unit.seconds else f"{unit.steps:,} steps"
    parts = [f"{unit.members} × {each}", *scored, f"program {unit.program}", f"disk {_size(unit.disk)}"]
    if target:
        usable = target.chip.usable / GIB
        parts += [] if unit.seconds else [f"{unit.hours:.2f} hours"]
        parts.append(f"{unit.memory / GIB:.2f} of {usable:.1f} GiB")
        parts += [] if unit.fits else [f"does not fit: at most {unit.room:.0f} a device"]
    return f"{unit.name}: {', '.join(parts)}"


def _size(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"
