"""How fast tasks are made, and what memory they take.

Memory is against the number of tasks, each number in a process of its own, started by `python -m gpicl_jax.bench.tasks`.
"""

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from gpicl_jax.bench.measure import Row, Side, by_turns, compile_apart, row, timing_rows
from gpicl_jax.bench.program import SIZES, Asked, Program, changed, random_tasks
from gpicl_jax.config import as_dict, config_from_dict
from gpicl_jax.sections import ENTRIES, Config

TAKES = (*SIZES, "tasks.sequences_per_task")
MEMORY = "memory with a finite set of tasks"
OURS, THEIRS = (4, 14, 24), (4, 8, 10)  # binary logarithms of numbers of tasks; PyTorch's last fills 0.3 GB
TURNS = 3  # processes for each number
_QUOTED = (16, 24)
_CALLS = 4  # tasks of one sequence are drawn so many times tasks_per_step at once
_BATCHES = 3


def measure(config: Config, asked: Asked) -> list[Row]:
    """Measures tasks/s with a matrix for each episode, every kind of entries; episodes/s of tasks that share theirs; memory.

    Raises:
      UserError: the public project is asked for and not there.
    """
    program, own = Program(config), config.tasks.entries
    (num_tasks, sequences), num_features = program.shape, config.data.num_features
    at_once = _CALLS * num_tasks
    one = program.changed(tasks={"tasks_per_step": at_once, "sequences_per_task": 1})
    ours = {f"jax, {kind}": _draw_side(one, kind) for kind in ENTRIES}
    theirs = {
        name: Side(lambda make=maker.make: make(at_once) and None, at_once)
        for name, maker in asked.makers(program.tasks).items()
    }
    shared = {f"jax, {own}, {num_tasks} tasks × {sequences} sequences": _draw_side(program, own)}
    by_turns(asked.repeats, ours, shared, theirs)
    table = f"episodes of {config.tasks.length} × {num_features}, a {num_features} × {num_features} matrix for each"
    rows, alone = timing_rows(table, ours | theirs, "tasks/s"), {f"jax, {own}": ours[f"jax, {own}"]}
    rows += timing_rows("episodes that share their task's matrix", shared, "episodes/s", alone | theirs)
    return rows + _memory_rows(config, asked)


def _draw_side(program: Program, entries: str) -> Side:
    """Returns draws of batch after batch, each of new tasks where they are without end."""
    tasks, hyper, step = dataclasses.replace(program.tasks, entries=entries), jax.device_put(program.hyper), 0
    compiled = compile_apart(program.draw, tasks, np.int32(0), hyper)

    def run():
        nonlocal step
        step += 1
        return compiled.run(tasks, np.int32(step), hyper)

    return Side(run, np.prod(program.shape), compiled)


def _memory_rows(config: Config, asked: Asked) -> list[Row]:
    """Returns peak memory with so many tasks, drawn as they come or (PyTorch's design) stored, and the bytes stored."""
    rows = _peak_rows("jax", OURS, config, 0)
    if asked.pytorch:
        from gpicl_jax.bench.pytorch.tasks import bytes_per_task

        each = bytes_per_task(config)
        rows += _peak_rows("pytorch", THEIRS, config, each)
        rows += [row(MEMORY, f"pytorch, 2^{number} tasks", "stored MB", each * 2**number / 1e6) for number in _QUOTED]
    return rows


def _peak_rows(side: str, exponents: tuple[int, ...], config: Config, each: int) -> list[Row]:
    peaks_RN = [[_in_fresh_process(side, config, 2**number) for number in exponents] for _ in range(TURNS)]
    rows, peaks_NR = [], np.transpose(peaks_RN)
    for number, peak_R in zip(exponents, peaks_NR, strict=True):
        found = {"peak MB": peak_R / 1e6, f"/ that of {2 ** exponents[0]}": peak_R / peaks_NR[0]}
        found["stored MB"] = each * 2**number / 1e6
        rows += [row(MEMORY, f"{side}, 2^{number} tasks", quantity, values) for quantity, values in found.items()]
    return rows


def _in_fresh_process(side: str, config: Config, num_tasks: int) -> int:
    command = [sys.executable, "-m", "gpicl_jax.bench.tasks", side, str(num_tasks), json.dumps(as_dict(config))]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # this process may hold most of a GPU
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"the process that measures memory failed: {done.stderr}")
    return int(done.stdout.splitlines()[-1])


def _peak_of_drawing(config: Config, num_tasks: int) -> int:
    """Draws a few batches of the finite set; returns the device's peak memory where it has its own, else the process's."""
    program = Program(changed(config, tasks={"num_tasks": num_tasks, "entries": "normal"}))  # these any finite set allows
    draw = jax.jit(program.draw)
    for step in range(_BATCHES):
        jax.block_until_ready(draw(program.tasks, np.int32(step), program.hyper))
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use") or _peak_rss()


def _peak_of_storing(config: Config, num_tasks: int) -> int:
    """Makes all tasks in a list; returns the process's peak memory."""
    from gpicl_jax.bench.pytorch.tasks import StoredTasks

    kept = StoredTasks(random_tasks(config), "cpu").make(num_tasks)
    return _peak_rss() if len(kept) == num_tasks else 0


def _peak_rss() -> int:
    """Returns the largest resident memory of this process so far, in bytes.

    On Linux from `VmHWM`: `ru_maxrss` of a child process begins with its parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    _side, _number, _settings = sys.argv[1:]
    _peak = {"jax": _peak_of_drawing, "pytorch": _peak_of_storing}[_side]
    print(_peak(config_from_dict(json.loads(_settings)), int(_number)))
