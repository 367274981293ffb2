"""`gpicl bench tasks`: how fast tasks are made, and what memory they take."""

import jax
import numpy as np

from gpicl_jax.bench.asked import Asked
from gpicl_jax.bench.measure import Side, by_turns, compile_apart
from gpicl_jax.bench.memory import memory_rows
from gpicl_jax.bench.program import draw_batch, random_images, random_tasks, shape_of, with_tasks
from gpicl_jax.bench.rows import Row, timing_rows
from gpicl_jax.hyper import hyper_from
from gpicl_jax.sections import ENTRIES, Config
from gpicl_jax.tasks.sources.images import ImageDataset

_CALLS = 4  # tasks of one sequence are drawn so many times tasks_per_step at once


def measure(config: Config, asked: Asked) -> list[Row]:
    """Tasks/s with a matrix for each episode, every kind of entries; episodes/s of tasks that share theirs; memory.

    Raises:
      UserError: PyTorch or the public project is asked for and not there.
    """
    images, (num_tasks, sequences) = random_images(config), shape_of(config)
    single = {"tasks_per_step": _CALLS * num_tasks, "sequences_per_task": 1}
    theirs = _pytorch_sides(config, asked, images, _CALLS * num_tasks)
    one = with_tasks(config, **single)
    ours = [draw_side(f"jax, {kind}", one, images, kind) for kind in ENTRIES]
    shared = draw_side(f"jax, {config.tasks.entries}, {num_tasks} tasks × {sequences} sequences", config, images)
    names = [side.name for side in theirs]
    timings = by_turns([*ours, shared, *theirs], asked.repeats)
    length, num_features = config.tasks.length, images.num_features
    table = f"episodes of {length} × {num_features}, a {num_features} × {num_features} matrix for each"
    rows = timing_rows(table, [*ours, *theirs], timings, "tasks/s", names)
    alone = f"jax, {config.tasks.entries}"
    rows += timing_rows("episodes that share their task's matrix", [shared], timings, "episodes/s", [alone, *names])
    return rows + memory_rows(config, asked)


def draw_side(name: str, config: Config, images: ImageDataset, entries: str = "") -> Side:
    """Draws batch after batch of `config`, each of new tasks where they are without end; see `random_tasks`."""
    tasks, hyper, step = random_tasks(config, images, entries), jax.device_put(hyper_from(config)), 0
    compiled = compile_apart(draw_batch(config), tasks, np.int32(0), hyper)

    def run():
        nonlocal step
        step += 1
        return compiled.run(tasks, np.int32(step), hyper)

    return Side(name, run, np.prod(shape_of(config)), compiled)


def _pytorch_sides(config: Config, asked: Asked, images: ImageDataset, num_tasks: int) -> list[Side]:
    if not asked.torch:
        return []
    from gpicl_jax.bench.pytorch.tasks import task_makers

    makers = task_makers(config, asked, images)
    return [Side(name, lambda make=make: make(num_tasks) and None, num_tasks) for name, make in makers.items()]
