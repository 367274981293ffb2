"""`gpicl bench step`: training steps with generation, generation's share of them, and the machine's own limit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.bench.asked import Asked
from gpicl_jax.bench.measure import Side, Timings, by_turns, compile_apart, spread
from gpicl_jax.bench.program import draw_batch, make_chunk, random_images, random_tasks, with_tasks
from gpicl_jax.bench.roofline import roofline_rows, roofline_sides
from gpicl_jax.bench.rows import Row, timing_rows
from gpicl_jax.build import make_learner, make_optimizer
from gpicl_jax.hyper import hyper_from
from gpicl_jax.sections import ENTRIES, Config
from gpicl_jax.tasks.sources.images import ImageDataset
from gpicl_jax.training.step import init_state

_GENERATION = "generation alone"


def measure(config: Config, asked: Asked) -> list[Row]:
    """Steps/s at B and 2 B episodes, a matrix for each or one for all; generation alone; the roofline.

    B is `tasks.tasks_per_step`.

    Raises:
      UserError: PyTorch is asked for and not there, or `config` asks for what its side does not have.
    """
    images, size = random_images(config), config.tasks.tasks_per_step
    one, two, shared = (
        with_tasks(config, tasks_per_step=tasks, sequences_per_task=sequences)
        for tasks, sequences in ((size, 1), (2 * size, 1), (1, 2 * size))
    )
    theirs = _pytorch_sides(config, asked, images)
    single, double = (step_side(f"jax, B = {each.tasks.tasks_per_step}", each, images) for each in (one, two))
    of_one = step_side(f"jax, one task, B = {2 * size}", shared, images)
    draws = {kind: _draw_side(f"jax, {kind}, B = {size}", one, images, kind) for kind in ENTRIES}
    draw_shared = _draw_side(f"jax, {config.tasks.entries}, one task, B = {2 * size}", shared, images)
    limits = roofline_sides()
    sides = [single, double, of_one, *theirs[size], *theirs[2 * size], *draws.values(), draw_shared, *limits]
    timings = by_turns(sides, asked.repeats)
    rows = []
    for each, ours in ((size, single), (2 * size, double)):
        names = [side.name for side in theirs[each]]
        rows += timing_rows(_title(config, each), [ours, *theirs[each]], timings, "steps/s", names, case=f", B = {each}")
    rows += timing_rows("training steps of episodes that share one matrix", [of_one], timings, "steps/s", [double.name])
    shares = _shares(timings, single.name, {kind: side.name for kind, side in draws.items()}, config.tasks.entries)
    shares[draw_shared.name] = timings[draw_shared.name] / timings[of_one.name]
    rows += timing_rows(_GENERATION, [*draws.values(), draw_shared], timings, "batches/s")
    rows += [Row(_GENERATION, name, "share of a step", *spread(share_R)) for name, share_R in shares.items()]
    return rows + roofline_rows(one, images, timings, single.name, limits)


def _title(config: Config, size: int) -> str:
    model, width = config.model, config.data.num_features
    return (
        f"training steps of {size} episodes of {config.tasks.length} × {width}, generation included "
        f"(width {model.width}, {model.num_layers} layers)"
    )


def _shares(timings: Timings, step: str, draws: dict[str, str], own: str) -> dict[str, np.ndarray]:
    """Of a step whose tasks were made in the other way: the rest of the step is the same."""
    rest_R = timings[step] - timings[draws[own]]
    return {name: timings[name] / (rest_R + timings[name]) for name in draws.values()}


def step_side(name: str, config: Config, images: ImageDataset) -> Side:
    """Chunks of training steps, one after another; its unit is a step."""
    learner, tasks = make_learner(config), random_tasks(config, images)
    hyper = jax.device_put(hyper_from(config))
    state = jax.jit(lambda hyper: init_state(learner, make_optimizer(config), hyper))(hyper)
    compiled = compile_apart(make_chunk(config, learner), state, tasks, hyper, donate=(0,))

    def run() -> Any:
        nonlocal state
        state, metrics = compiled.run(state, tasks, hyper)
        return metrics["loss"]

    return Side(name, run, config.train.chunk, compiled)


def _draw_side(name: str, config: Config, images: ImageDataset, entries: str = "") -> Side:
    """As many batches in one scan as the step has; each is drawn whole, and the next begins where it ends."""
    draw, tasks, hyper = draw_batch(config), random_tasks(config, images, entries), jax.device_put(hyper_from(config))

    def draw_all(tasks, hyper, start):
        def body(largest, step):
            episodes = draw(tasks, step, hyper)
            used = jnp.abs(episodes.x_LX).max() + episodes.y_L.max()  # nothing of them may be left out
            return jnp.maximum(largest, used), None

        return jax.lax.scan(body, jnp.float32(0), start + jnp.arange(config.train.chunk))[0]

    compiled = compile_apart(draw_all, tasks, hyper, np.int32(0))
    return Side(name, lambda: compiled.run(tasks, hyper, np.int32(0)), config.train.chunk, compiled)


def _pytorch_sides(config: Config, asked: Asked, images: ImageDataset) -> dict[int, list[Side]]:
    """By batch size: one step each, with tasks made as the public project makes them, and with the lean generator."""
    makers, size = {}, config.tasks.tasks_per_step
    if asked.torch:
        from gpicl_jax.bench.pytorch.tasks import batch_makers

        makers = batch_makers(config, asked, images)
    return {
        each: [
            _pytorch_side(f"{name}, B = {each}", config, lambda make=make, each=each: make(each))
            for name, make in makers.items()
        ]
        for each in (size, 2 * size)
    }


def _pytorch_side(name: str, config: Config, draw: Callable[[], Any]) -> Side:
    from gpicl_jax.bench.pytorch import device_of_torch, wait
    from gpicl_jax.bench.pytorch.training import make_optimizer, train_step
    from gpicl_jax.bench.pytorch.transformer import Transformer

    device = device_of_torch()
    module = Transformer(config).to(device)
    optimizer = make_optimizer(config, module)

    def run() -> None:
        train_step(module, optimizer, draw)
        wait(device)

    return Side(name, run)
