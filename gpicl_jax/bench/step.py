"""Training steps per second, the share of task generation in them, and the machine's limit.

The limit is the least time that a step could take on this machine. It follows from the work of a step and from measured rates.
Counted by hand, a step of B episodes of L tokens, H heads of E, K = H·E, does

    2·B·L·(3·[(N·(4·D·K + 2·D·F) + C·D) + N·2·L·K] + 2·(X + C)·D)  +  2·B·L·X²

floating-point operations. Every product counts once forward and twice backward (the tokens need no gradient: the embedding
counts once and once). Attention is over all L × L pairs, and the projection of the images counts. Random words are integer
work and do not count. A step must move, in floats of 4 bytes,

    10·P  +  4·B·L·N·(4·D + 4·K + 2·F + H·L)

The P parameters are read forward and backward, and their gradient is written. Adam reads four numbers of each and writes three.
Activations and their gradients are written and read once. Matrices never leave the cache.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.bench.measure import Row, Side, by_turns, compile_apart, compiled_side, row, timing_rows, training_side
from gpicl_jax.bench.program import SIZES, Asked, Program, model_size
from gpicl_jax.sections import ENTRIES, Config
from gpicl_jax.training.step import num_params

TAKES = (*SIZES, "model", "optimizer", "train.chunk", "--pytorch", "--pytorch-repo")
PRODUCT = {"cpu": 2048}  # rows of the matrices
COPIED = 2**26  # floats


def measure(config: Config, asked: Asked) -> list[Row]:
    """Measures steps/s at B and 2 B episodes, with a matrix for each or one for all, then generation alone and the roofline.

    B is `tasks.tasks_per_step`.

    Raises:
      UserError: PyTorch's version does not support a setting of `config`.
    """
    program, size, own = Program(config), config.tasks.tasks_per_step, config.tasks.entries
    one, two, shared = (
        program.changed(tasks={"tasks_per_step": num_tasks, "sequences_per_task": sequences})
        for num_tasks, sequences in ((size, 1), (2 * size, 1), (1, 2 * size))
    )
    makers, limits = asked.makers(program.tasks), machine_rates()
    theirs = [_pytorch_sides(each, makers) for each in (one, two)]
    steps = {each.shape[0]: {"jax": step_side(each), **sides} for each, sides in zip((one, two), theirs, strict=True)}
    of_one, drawn_of_one = {f"jax, one task, B = {2 * size}": step_side(shared)}, f"jax, {own}, one task, B = {2 * size}"
    draws = {f"jax, {kind}, B = {size}": _draw_side(one, kind) for kind in ENTRIES} | {drawn_of_one: _draw_side(shared, own)}
    by_turns(asked.repeats, *steps.values(), of_one, draws, limits)
    rows = []
    for each, sides in steps.items():
        table = f"training steps of {each} episodes of {config.tasks.length} × {config.data.num_features}, generation included "
        rows += timing_rows(table + f"({model_size(config)})", sides, "steps/s")
    table, against = "training steps of episodes that share one matrix", {f"jax, B = {2 * size}": steps[2 * size]["jax"]}
    rows += timing_rows(table, of_one, "steps/s", against)
    rows += timing_rows("generation alone", draws, "batches/s")
    step_R, (of_one_R,) = steps[size]["jax"].seconds_R, (side.seconds_R for side in of_one.values())
    rest_R = step_R - draws[f"jax, {own}, B = {size}"].seconds_R  # it is the same where tasks are made in another way
    whole_R = {name: rest_R + side.seconds_R for name, side in draws.items()} | {drawn_of_one: of_one_R}
    rows += [row("generation alone", name, "share of a step", side.seconds_R / whole_R[name]) for name, side in draws.items()]
    return rows + _roofline_rows(one, step_R, limits)


def step_side(program: Program) -> Side:
    """Returns a side that takes chunks of training steps. Its unit is a step."""
    state, amount = program.init(program.hyper), program.config.train.chunk
    return training_side(program.chunk, state, program.tasks, program.hyper, amount=amount)


def _draw_side(program: Program, entries: str) -> Side:
    """Returns a side that draws a batch for each step of a chunk, in one scan. A batch is drawn whole before the next one."""
    chunk, tasks = program.config.train.chunk, dataclasses.replace(program.tasks, entries=entries)

    def draw_all(tasks, hyper, start):
        def body(largest, step):
            episodes = program.draw(tasks, step, hyper)
            used = jnp.abs(episodes.x_LX).max() + episodes.y_L.max()  # nothing of them may be left out
            return jnp.maximum(largest, used), None

        return jax.lax.scan(body, jnp.float32(0), start + jnp.arange(chunk))[0]

    return compiled_side(draw_all, tasks, program.hyper, np.int32(0), amount=chunk)


def _pytorch_sides(program: Program, makers: dict[str, Any]) -> dict[str, Side]:
    """Returns training steps in PyTorch on tasks of each maker, and on lean batches where our version is a maker."""
    if not makers:
        return {}
    from gpicl_jax.bench.pytorch.transformer import transformer_side

    draws = {name: maker.batch for name, maker in makers.items()}
    if "pytorch" in makers:
        draws["pytorch, lean"] = makers["pytorch"].lean_batch
    batch = program.shape[0]
    return {name: transformer_side(program.config, functools.partial(draws[name], batch)) for name in sorted(draws)}


def machine_rates() -> dict[str, Side]:
    """Returns a large square float32 product, whose unit is an operation, and a copy of a long array, whose unit is a byte."""
    size = PRODUCT.get(jax.default_backend(), 8192)
    square, long = jax.random.normal(jax.random.key(0), (size, size)), jnp.ones(COPIED)
    return {
        f"product of {size} × {size}": compiled_side(jnp.matmul, square, square, amount=2.0 * size**3),
        "copy": compiled_side(lambda x: x + 1, long, amount=2.0 * 4 * COPIED),
    }


def work_by_hand(config: Config, params: int) -> tuple[float, float]:
    """Returns operations and bytes of a step with `tasks.sequences_per_task` = 1, as the top of the file counts them."""
    model, tasks, num_features = config.model, config.tasks, config.data.num_features
    wide, mlp_width = model.num_heads * model.head_size, model.mlp_width or 4 * model.width
    rows, classes = tasks.tasks_per_step * tasks.length, tasks.classes_per_task
    blocks = model.num_layers * (4 * model.width * wide + 2 * model.width * mlp_width + 2 * tasks.length * wide)
    products = 3 * (blocks + classes * model.width) + 2 * (num_features + classes) * model.width + num_features**2
    kept = model.num_layers * (4 * model.width + 4 * wide + 2 * mlp_width + model.num_heads * tasks.length)
    return 2.0 * rows * products, 4.0 * (10 * params + 4 * rows * kept)


def _roofline_rows(program: Program, step_R: np.ndarray, limits: dict[str, Side]) -> list[Row]:
    """Returns the work by hand and by XLA's count, the machine's rates, the bound, and the share of it that a step reaches."""
    step = functools.partial(program.given_step, hyper=program.hyper, gradient=program.given_gradient(1))
    given = jax.eval_shape(program.init, program.hyper), jax.eval_shape(program.first_batch)
    _, costs = compile_apart(lambda *given: step(*given)[0][:2], *given)  # no loop is in it: XLA's count is whole
    (name, product), (other, copy) = ((name, side.seconds_R) for name, side in limits.items())
    found = {
        f"{name}, GFLOP/s": 1e-9 / product,
        f"{other}, GB/s": 1e-9 / copy,
        "a step without generation, as XLA counts: GFLOP": costs["GFLOP"],
        "a step without generation, as XLA counts: GB": costs["GB"],
    }
    if program.config.model.name == "transformer" and program.config.model.layout == "shifted":
        flops, moved = work_by_hand(program.config, num_params(given[0].params))
        bound_R = np.maximum(flops * product, moved * copy)
        found |= {
            "a step by hand: GFLOP": flops / 1e9,
            "a step by hand: GB": moved / 1e9,
            "a step at the machine's rates, ms": 1e3 * bound_R,
            "a step as measured, ms": 1e3 * step_R,
            "share of the bound that is reached": bound_R / step_R,
        }
    return [row("roofline", name, "value", values) for name, values in found.items()]
