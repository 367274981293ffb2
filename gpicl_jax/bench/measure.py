"""Timing that can be trusted: warm-up, compilation apart, and all sides by turns, so that they share the machine's moods."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

SHORTEST = 0.4  # seconds of one timed turn of a side; quicker calls are repeated to fill it


class Compiled(NamedTuple):
    """A compiled program and what compiling told.

    Attributes:
      run: takes the arguments that it was compiled for.
      seconds: of tracing and compilation.
      temp_bytes: memory that a call takes beside its arguments and results.
      flops, bytes: of a call as XLA counts them, the body of a loop only once.
    """

    run: Callable[..., Any]
    seconds: float
    temp_bytes: int
    flops: float
    bytes: float


@dataclasses.dataclass(eq=False)
class Side:
    """One thing to time.

    Attributes:
      run: one call; it ends when its work is done, or returns the JAX arrays to wait for.
      amount: units (tasks, steps, episodes, …) that a call makes.
      compiled: the program that it runs, where there is one.
      seconds_R: of a unit in every round, from `by_turns`.
    """

    run: Callable[[], Any]
    amount: float = 1.0
    compiled: Compiled | None = None
    seconds_R: np.ndarray | None = None


class Row(NamedTuple):
    """One number, or the median of several rounds.

    Attributes:
      table: the table it belongs to.
      side: what was measured.
      quantity: with its unit; `× NAME` is how many times as fast as the side NAME, round by round.
      median, low, high: with the 10th and 90th percentile; all equal for a number that was not repeated.
    """

    table: str
    side: str
    quantity: str
    median: float
    low: float
    high: float


def threads() -> int:
    """Returns how many processors this process may use: XLA's pool has so many threads, and PyTorch is told to use as many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_apart(function: Callable[..., Any], *arguments: Any, donate: tuple[int, ...] = ()) -> Compiled:
    """Compiles a pure `function` for `arguments` without calling it. A call takes over the memory of those at `donate`.

    Example:
      >>> compile_apart(lambda x: x + 1, np.float32(1)).run(np.float32(2)).item()
      3.0
    """
    begun = time.perf_counter()
    program = jax.jit(function, donate_argnums=donate).lower(*arguments).compile()
    seconds = time.perf_counter() - begun
    cost, memory = program.cost_analysis() or {}, program.memory_analysis()
    temp_bytes = memory.temp_size_in_bytes if memory else 0
    return Compiled(program, seconds, temp_bytes, cost.get("flops", 0.0), cost.get("bytes accessed", 0.0))


def compiled_side(function: Callable[..., Any], *arguments: Any, amount: float = 1.0) -> Side:
    """Returns a side that calls a compiled `function`, always with the same arguments."""
    compiled = compile_apart(function, *arguments)
    return Side(functools.partial(compiled.run, *arguments), amount, compiled)


def training_side(step: Compiled | Callable[..., Any], state: Any, *given: Any, amount: float = 1.0) -> Side:
    """Returns a side that trains on: each call is `step(state, *given)` from the state that the last one left."""
    compiled = step if isinstance(step, Compiled) else None
    take = compiled.run if compiled else step

    def run() -> jax.Array:
        nonlocal state
        state, metrics = take(state, *given)
        return metrics["loss"]

    return Side(run, amount, compiled)


def by_turns(repeats: int, *groups: Mapping[str, Side]) -> None:
    """Times the sides of all groups, A B C, A B C, …: `seconds_R` of each. A first round warms up and is not counted.

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
    """Returns the row of one number, or of those of several rounds.

    Example:
      >>> row("speed", "a", "tasks/s", [3.0, 1.0, 2.0]).median
      2.0
    """
    return Row(table, side, quantity, *np.quantile(np.asarray(values, float), [0.5, 0.1, 0.9]).tolist())


def timing_rows(table: str, sides: Mapping[str, Side], unit: str, against: Mapping[str, Side] | None = None) -> list[Row]:
    """Returns of every side its rate, how many times as fast as each side of `against` it is, and what its program costs.

    Args:
      table: title.
      sides: by name, in the order of the table; `by_turns` has timed them.
      unit: `tasks/s`; or `µs/episode`, which asks for the time of a unit in place of a rate.
      against: sides to compare with, by name; those of PyTorch by default.
    """
    rows, against = [], against or {name: side for name, side in sides.items() if name.startswith("pytorch")}
    for name, side in sides.items():
        rows.append(row(table, name, unit, 1e6 * side.seconds_R if unit.startswith("µs") else 1 / side.seconds_R))
        for other in against if name not in against else ():
            rows.append(row(table, name, f"× {other}", against[other].seconds_R / side.seconds_R))
        if side.compiled:
            rows.append(row(table, name, "compile s", side.compiled.seconds))
            rows.append(row(table, name, "temporaries MB", side.compiled.temp_bytes / 1e6))
    return rows


def text(rows: Sequence[Row]) -> str:
    """Returns the rows as aligned tables: a line for each side, a column for each quantity.

    Example:
      >>> print(text([row("speed", "a", "tasks/s", 3), row("speed", "b", "tasks/s", 1250)]))
      speed
        side   tasks/s
        a            3
        b        1,250
    """
    blocks = []
    for title in dict.fromkeys(row.table for row in rows):
        cells = {(row.side, row.quantity): _cell(row) for row in rows if row.table == title}
        sides, quantities = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
        lines = [["side", *quantities], *([side, *(cells.get((side, each), "") for each in quantities)] for side in sides)]
        first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
        blocks.append(title)
        for side, *others in lines:
            aligned = "".join(f"   {cell:>{width}}" for cell, width in zip(others, widths, strict=True))
            blocks.append(f"  {side:<{first}}{aligned}")
    return "\n".join(blocks)


def _cell(row: Row) -> str:
    spread = f" ({_short(row.low)}–{_short(row.high)})" if row.low != row.high else ""
    return _short(row.median) + spread


def _short(value: float) -> str:
    """Returns three figures, and no exponent below a million.

    Example:
      >>> _short(0.012345), _short(3.14159), _short(1234.5), _short(2.5e9)
      ('0.0123', '3.14', '1,234', '2.5e+09')
    """
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
