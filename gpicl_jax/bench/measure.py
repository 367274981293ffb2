"""Timing: warm-up, compilation apart, and all sides in turns, so that other work on the machine slows all alike."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

SHORTEST = 0.4  # seconds of one timed turn of a side; quicker calls are repeated to fill it


@dataclasses.dataclass(eq=False)
class Side:
    """One thing to time.

    Attributes:
      run: one call. It ends when its work is done, or returns the JAX arrays to wait for.
      amount: units (tasks, steps, episodes, …) in a call.
      costs: what its program costs, from `compile_apart`.
      seconds_R: seconds of a unit in every round, from `by_turns`.
    """

    run: Callable[[], Any]
    amount: float = 1.0
    costs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds_R: np.ndarray | None = None


class Row(NamedTuple):
    """One number, or the median of several rounds.

    Attributes:
      table, side: title of the table, and what was measured.
      quantity: name with its unit. `× NAME` is how many times as fast as the side NAME, round by round.
      median, low, high: median, 10th and 90th percentile, all equal for a number that was not repeated.
    """

    table: str
    side: str
    quantity: str
    median: float
    low: float
    high: float


def threads() -> int:
    """Returns how many processors this process may use. XLA's pool has as many threads, and PyTorch gets as many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_apart(function: Callable[..., Any], *arguments: Any, donate: tuple[int, ...] = ()) -> tuple[Any, dict[str, float]]:
    """Compiles a pure `function` for `arguments` without a call. Returns the program and what it costs.

    `compile s` includes tracing. `temporaries MB` is the memory beside arguments and results. `GFLOP` and `GB` are XLA's, which
    counts the body of a loop once. A call reuses the memory of the arguments at `donate`.

    Example:
      >>> program, costs = compile_apart(lambda x: x + 1, np.float32(1))
      >>> program(np.float32(2)).item(), costs["GFLOP"]
      (3.0, 1e-09)
    """
    begun = time.perf_counter()
    program = jax.jit(function, donate_argnums=donate).lower(*arguments).compile()
    seconds, counts, memory = time.perf_counter() - begun, program.cost_analysis() or {}, program.memory_analysis()
    return program, {
        "compile s": seconds,
        "temporaries MB": memory.temp_size_in_bytes / 1e6 if memory else 0.0,
        "GFLOP": counts.get("flops", 0.0) / 1e9,
        "GB": counts.get("bytes accessed", 0.0) / 1e9,
    }


def needed_bytes(memory: Any) -> int:
    """Returns the bytes that a program needs, arguments and results included, of its `memory_analysis()`.

    Example:
      >>> program, _ = compile_apart(lambda x_X: x_X + 1, np.ones(4, np.float32), donate=(0,))
      >>> needed_bytes(program.memory_analysis())
      16
    """
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return kept + memory.temp_size_in_bytes


def compiled_side(function: Callable[..., Any], *arguments: Any, amount: float = 1.0) -> Side:
    """Returns a side that compiles a pure `function` and calls it with the same arguments every time."""
    program, costs = compile_apart(function, *arguments)
    return Side(functools.partial(program, *arguments), amount, costs)


def training_side(step: Callable[..., Any], state: Any, *given: Any, amount: float = 1.0, compiled: bool = False) -> Side:
    """Returns a side that trains: a call is `step(state, *given)` from the state that the last call left.

    A `step` that is not `compiled` must be pure, and is compiled here.
    """
    step, costs = (step, {}) if compiled else compile_apart(step, state, *given, donate=(0,))

    def run() -> jax.Array:
        nonlocal state
        state, metrics = step(state, *given)
        return metrics["loss"]

    return Side(run, amount, costs)


def by_turns(repeats: int, *groups: Mapping[str, Side]) -> None:
    """Times the sides of all groups in turns, A B C, A B C, …, and sets their `seconds_R`. A first round warms up.

    Example:
      >>> side = Side(lambda: None)
      >>> by_turns(2, {"a": side, "b": Side(lambda: None)})
      >>> list(side.seconds_R > 0)
      [np.True_, np.True_]
    """
    sides, calls = [side for group in groups for side in group.values()], []
    for side in sides:
        _seconds(side, 1)
        calls.append(max(1, round(SHORTEST / _seconds(side, 1))))
    rounds = [[_seconds(side, number) for side, number in zip(sides, calls, strict=True)] for _ in range(repeats)]
    for side, seconds_R in zip(sides, zip(*rounds, strict=True), strict=True):
        side.seconds_R = np.array(seconds_R) / side.amount


def _seconds(side: Side, calls: int) -> float:
    begun = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(side.run())  # each: PyTorch's side waits for each too, and results are not piled up
    return max(time.perf_counter() - begun, 1e-9) / calls


def row(table: str, side: str, quantity: str, values: Any) -> Row:
    """Returns the row of one number, or of the numbers of several rounds.

    Example:
      >>> row("speed", "a", "tasks/s", [3.0, 1.0, 2.0]).median
      2.0
    """
    return Row(table, side, quantity, *np.quantile(np.asarray(values, float), [0.5, 0.1, 0.9]).tolist())


def timing_rows(table: str, sides: Mapping[str, Side], unit: str, against: Mapping[str, Side] | None = None) -> list[Row]:
    """Returns for every side its rate, its speed as a multiple of each side of `against`, and what its program costs.

    Args:
      table: title.
      sides: timed sides by name, in the order of the table.
      unit: `tasks/s` for a rate, or `µs/episode` for the time of a unit.
      against: sides to compare with, by name. The default is PyTorch's sides.
    """
    rows, against = [], against or {name: side for name, side in sides.items() if name.startswith("pytorch")}
    for name, side in sides.items():
        rows.append(row(table, name, unit, 1e6 * side.seconds_R if unit.startswith("µs") else 1 / side.seconds_R))
        for other in against if name not in against else ():
            rows.append(row(table, name, f"× {other}", against[other].seconds_R / side.seconds_R))
        rows += [row(table, name, each, side.costs[each]) for each in ("compile s", "temporaries MB") if side.costs]
    return rows
