"""Tasks per second, and the memory that tasks take.

Memory is measured for several numbers of tasks, each in a new process, `python -m gpicl_jax.bench.tasks`.
"""

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from gpicl_jax.bench.measure import Row, Side, by_turns, compiled_side, row, timing_rows
from gpicl_jax.bench.program import SIZES, Asked, Program, changed
from gpicl_jax.config import as_dict, config_from_dict
from gpicl_jax.sections import ENTRIES, Config

TAKES = (*SIZES, "tasks.sequences_per_task", "--pytorch", "--pytorch-repo")
OURS, THEIRS = (4, 14, 24), (4, 8, 10)  # binary logarithms of numbers of tasks; PyTorch's last fills 0.3 GB
TURNS = 3  # processes for each number
_QUOTED = (16, 24)
_CALLS = 4  # tasks of one sequence are drawn so many times tasks_per_step at once


def measure(config: Config, asked: Asked) -> list[Row]:
    """Measures tasks/s with a matrix for each episode and kind of entries, episodes/s of tasks that share one, and memory.

    Memory is that of 2^n tasks of a finite set, drawn on the fly or (PyTorch's design) stored.

    Raises:
      UserError: the public project cannot be used.
    """
    program, own = Program(config), config.tasks.entries
    (num_tasks, sequences), num_features = program.shape, config.data.num_features
    at_once, makers = _CALLS * num_tasks, asked.makers(program.tasks)
    one = program.changed(tasks={"tasks_per_step": at_once, "sequences_per_task": 1})
    ours = {f"jax, {kind}": _draw_side(one, kind) for kind in ENTRIES}
    theirs = {name: Side(lambda make=maker.make: make(at_once) and None, at_once) for name, maker in makers.items()}
    shared = {f"jax, {own}, {num_tasks} tasks × {sequences} sequences": _draw_side(program, own)}
    by_turns(asked.repeats, ours, shared, theirs)
    table = f"episodes of {config.tasks.length} × {num_features}, a {num_features} × {num_features} matrix for each"
    rows, alone = timing_rows(table, ours | theirs, "tasks/s"), {f"jax, {own}": ours[f"jax, {own}"]}
    rows += timing_rows("episodes that share their task's matrix", shared, "episodes/s", alone | theirs)
    rows += _memory_rows("jax", OURS, config, task_bytes=0)
    if asked.pytorch:
        rows += _memory_rows("pytorch", THEIRS, config, sum(leaf.nbytes for leaf in makers["pytorch"].make_one()))
    return rows


def _draw_side(program: Program, entries: str) -> Side:
    tasks = dataclasses.replace(program.tasks, entries=entries)
    return compiled_side(program.draw, tasks, np.int32(0), program.hyper, amount=np.prod(program.shape))


def _memory_rows(side: str, exponents: tuple[int, ...], config: Config, task_bytes: int) -> list[Row]:
    """Returns peak memory with 2^n tasks, and the bytes that stored tasks take, also for sets too large to make here."""
    peaks_RN = [[_peak_of(side, config, 2**number) for number in exponents] for _ in range(TURNS)]
    table, peaks, rows = "memory with a finite set of tasks", dict(zip(exponents, np.transpose(peaks_RN), strict=True)), []
    for number in sorted({*exponents, *_QUOTED}):
        name = f"{side}, 2^{number} tasks"
        if number in peaks:
            rows.append(row(table, name, "peak MB", peaks[number] / 1e6))
            rows.append(row(table, name, f"/ that of {2 ** exponents[0]}", peaks[number] / peaks[exponents[0]]))
        rows.append(row(table, name, "stored MB", task_bytes * 2**number / 1e6))
    return rows


def _peak_of(side: str, config: Config, num_tasks: int) -> int:
    """Returns the peak memory, in bytes, of a new process that makes tasks, or of its device where that has its own memory."""
    command = [sys.executable, "-m", "gpicl_jax.bench.tasks", side, str(num_tasks), json.dumps(as_dict(config))]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # this process may hold most of a GPU
    return int(subprocess.check_output(command, text=True, env=environment).splitlines()[-1])


def _peak(side: str, num_tasks: int, config: Config) -> int:
    """Returns the peak memory of this process, or of its device, after three drawn batches or after all tasks are stored."""
    if side == "pytorch":
        from gpicl_jax.bench.pytorch.tasks import StoredTasks

        StoredTasks(Program(config).tasks, "cpu").make(num_tasks)
        return _peak_rss()
    config = changed(config, tasks={"num_tasks": num_tasks, "entries": "normal"})  # these any finite set allows
    draws = _draw_side(Program(config), "normal")
    for _ in range(3):
        jax.block_until_ready(draws.run())
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use") or _peak_rss()


def _peak_rss() -> int:
    """Returns the largest resident memory of this process so far, in bytes.

    Linux says it in `VmHWM`. `ru_maxrss` of a child process would begin with its parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    print(_peak(sys.argv[1], int(sys.argv[2]), config_from_dict(json.loads(sys.argv[3]))))
