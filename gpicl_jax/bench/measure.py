"""Timing that can be trusted: warm-up, compilation apart, and all sides by turns, so that they share the machine's moods."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

SHORTEST = 0.4  # seconds of one timed turn of a side; quicker calls are repeated to fill it
_LOW, _HIGH = 0.1, 0.9
Timings = dict[str, np.ndarray]


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


class Side(NamedTuple):
    """One thing to time.

    Attributes:
      name: for tables; no two sides of a measurement share it.
      run: one call; it ends when its work is done, or returns the JAX arrays to wait for.
      amount: units (tasks, steps, episodes, …) that a call makes.
      compiled: the program that it runs, where there is one.
    """

    name: str
    run: Callable[[], Any]
    amount: float = 1.0
    compiled: Compiled | None = None


class Spread(NamedTuple):
    """A median, and the 10th and 90th percentile around it."""

    median: float
    low: float
    high: float


def compile_apart(function: Callable[..., Any], *arguments: Any, donate: tuple[int, ...] = ()) -> Compiled:
    """Compiles `function` for `arguments` without calling it.

    Args:
      function: pure, of arrays.
      arguments: as it will be called.
      donate: positions of arguments whose memory a call takes over.

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


def by_turns(sides: Sequence[Side], repeats: int) -> Timings:
    """Seconds per unit of every side in every round, float [R]: A B C, A B C, …; a first round warms up and is not counted.

    Example:
      >>> list(by_turns([Side("a", lambda: None), Side("b", lambda: None)], 2)["b"] > 0)
      [np.True_, np.True_]
    """
    calls = {}
    for side in sides:
        _seconds(side, 1)
        calls[side.name] = max(1, round(SHORTEST / _seconds(side, 1)))
    rounds = [{side.name: _seconds(side, calls[side.name]) for side in sides} for _ in range(repeats)]
    return {side.name: np.array([each[side.name] for each in rounds]) / side.amount for side in sides}


def _seconds(side: Side, calls: int) -> float:
    begun = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(side.run())  # each: PyTorch's side waits for each too, and results are not piled up
    return max(time.perf_counter() - begun, 1e-9) / calls


def spread(values: Any) -> Spread:
    """The median and percentiles of `values`.

    Example:
      >>> spread([3.0, 1.0, 2.0]).median
      2.0
    """
    return Spread(*(float(value) for value in np.quantile(np.asarray(values), [0.5, _LOW, _HIGH])))
