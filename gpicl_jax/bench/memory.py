"""Memory against the number of tasks, each number in a process of its own, started by `python -m gpicl_jax.bench.memory`."""

import json
import os
import subprocess
import sys

import numpy as np

from gpicl_jax.bench.asked import Asked
from gpicl_jax.bench.machine import peak_rss
from gpicl_jax.bench.measure import spread
from gpicl_jax.bench.rows import Row, number
from gpicl_jax.config import as_dict, config_from_dict
from gpicl_jax.hyper import hyper_from
from gpicl_jax.sections import Config

TABLE = "memory with a finite set of tasks"
OURS, THEIRS = (2**4, 2**14, 2**24), (2**4, 2**8, 2**10)  # PyTorch's last fills 0.3 GB
TURNS = 3  # processes for each number
_QUOTED = (2**16, 2**24)
_BATCHES = 3
_JAX, _PYTORCH = "jax", "pytorch"


def memory_rows(config: Config, asked: Asked) -> list[Row]:
    """Peak memory with so many tasks, drawn as they come or (PyTorch's design) stored, and the bytes that are stored."""
    rows = _peak_rows(_JAX, OURS, config, 0)
    if asked.pytorch:
        from gpicl_jax.bench.pytorch.tasks import bytes_per_task

        each = bytes_per_task(config)
        rows += _peak_rows(_PYTORCH, THEIRS, config, each)
        rows += [number(TABLE, _label(_PYTORCH, count), "stored MB", each * count / 1e6) for count in _QUOTED]
    return rows


def _label(side: str, num_tasks: int) -> str:
    """A count is a power of two here."""
    return f"{side}, 2^{num_tasks.bit_length() - 1} tasks"


def _peak_rows(side: str, counts: tuple[int, ...], config: Config, each: int) -> list[Row]:
    peaks = [{count: _in_fresh_process(side, config, count) for count in counts} for _ in range(TURNS)]
    rows = []
    for count in counts:
        peak_R, first_R = (np.array([turn[which] for turn in peaks]) for which in (count, counts[0]))
        label = _label(side, count)
        rows.append(Row(TABLE, label, "peak MB", *spread(peak_R / 1e6)))
        rows.append(Row(TABLE, label, f"/ that of {counts[0]}", *spread(peak_R / first_R)))
        rows.append(number(TABLE, label, "stored MB", each * count / 1e6))
    return rows


def _in_fresh_process(side: str, config: Config, num_tasks: int) -> int:
    order = json.dumps({"side": side, "num_tasks": num_tasks, "config": as_dict(config)})
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # this process may hold most of a GPU
    command = [sys.executable, "-m", "gpicl_jax.bench.memory"]
    done = subprocess.run(command, input=order, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"the process that measures memory failed: {done.stderr}")
    return int(done.stdout.splitlines()[-1])


def _draw(config: Config, num_tasks: int) -> int:
    """A few batches of the finite set; the device's peak memory where it has its own, else the process's."""
    import jax

    from gpicl_jax.bench.program import draw_batch, random_images, random_tasks, with_tasks

    config = with_tasks(config, num_tasks=num_tasks, entries="normal")  # the one way that any finite set allows
    tasks, hyper = random_tasks(config, random_images(config)), hyper_from(config)
    draw = jax.jit(draw_batch(config))
    for step in range(_BATCHES):
        jax.block_until_ready(draw(tasks, np.int32(step), hyper))
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use") or peak_rss()


def _store(config: Config, num_tasks: int) -> int:
    """All tasks, in a list."""
    from gpicl_jax.bench.program import random_images
    from gpicl_jax.bench.pytorch.tasks import StoredTasks

    tasks = StoredTasks(random_images(config), config.tasks.length, config.tasks.classes_per_task, "cpu")
    kept = tasks.make(num_tasks)
    return peak_rss() if len(kept) == num_tasks else 0


def main() -> None:
    """Reads one order from stdin, prints the peak in bytes."""
    order = json.load(sys.stdin)
    config, num_tasks = config_from_dict(order["config"]), order["num_tasks"]
    print(_draw(config, num_tasks) if order["side"] == _JAX else _store(config, num_tasks))


if __name__ == "__main__":
    main()
