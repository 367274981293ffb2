"""Memory against the number of tasks, each number in a process of its own, started by `python -m gpicl_jax.bench.memory`."""

import dataclasses
import json
import os
import subprocess
import sys

from gpicl_jax.bench.asked import Asked
from gpicl_jax.bench.machine import peak_rss
from gpicl_jax.bench.rows import Row, number
from gpicl_jax.config import config_from_dict, hyper_from
from gpicl_jax.sections import Config

TABLE = "memory"
OURS, THEIRS = (2**4, 2**14, 2**24), (2**4, 2**8, 2**10)  # PyTorch's last fills 0.3 GB
QUOTED = 2**16
_BATCHES = 3
_JAX, _PYTORCH = "jax", "pytorch"


def memory_rows(config: Config, asked: Asked) -> list[Row]:
    """Peak memory with a finite set of so many tasks, drawn as they come or (PyTorch's design) stored; bytes per task."""
    rows = _peaks(_JAX, OURS, config) + [number(TABLE, _JAX, "stored kB per task", 0)]
    if asked.pytorch:
        from gpicl_jax.bench.pytorch.tasks import bytes_per_task

        each = bytes_per_task(config)
        rows += _peaks(_PYTORCH, THEIRS, config)
        rows.append(number(TABLE, _PYTORCH, "stored kB per task", each / 1e3))
        rows += [number(TABLE, _PYTORCH, f"{count} tasks: stored MB", each * count / 1e6) for count in (QUOTED, OURS[-1])]
    return rows


def _peaks(side: str, counts: tuple[int, ...], config: Config) -> list[Row]:
    peaks = {count: _in_fresh_process(side, config, count) for count in counts}
    rows = [number(TABLE, side, f"{count} tasks: peak MB", peak / 1e6) for count, peak in peaks.items()]
    return [*rows, number(TABLE, side, f"peak, {counts[-1]} tasks / {counts[0]}", peaks[counts[-1]] / peaks[counts[0]])]


def _in_fresh_process(side: str, config: Config, num_tasks: int) -> int:
    order = json.dumps({"side": side, "num_tasks": num_tasks, "config": dataclasses.asdict(config)})
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # this process may hold most of a GPU
    command = [sys.executable, "-m", "gpicl_jax.bench.memory"]
    done = subprocess.run(command, input=order, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"the process that measures memory failed: {done.stderr}")
    return int(done.stdout.splitlines()[-1])


def _draw(config: Config) -> int:
    """A few batches of the finite set; the device's peak memory where it has its own, else the process's."""
    import jax
    import numpy as np

    from gpicl_jax.bench.program import draw_batch, random_images, random_tasks

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
    settings = order["config"]
    if order["side"] == _JAX:
        settings["tasks"] |= {"num_tasks": order["num_tasks"]} | (
            {"entries": "normal"} if "entries" in settings["tasks"] else {}
        )
        print(_draw(config_from_dict(settings)))
    else:
        print(_store(config_from_dict(settings), order["num_tasks"]))


if __name__ == "__main__":
    main()
