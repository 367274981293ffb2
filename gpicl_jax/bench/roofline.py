"""The least time that a step could take on this machine, from its work and from what the machine does of plain work.

By hand, a step of B episodes of L tokens, H heads of E, K = H·E, does

    2·B·L·(3·[(N·(4·D·K + 2·D·F) + C·D) + N·2·L·K] + 2·(X + C)·D)  +  2·B·L·X²

floating-point operations: every product once forward and twice backward (the tokens need no gradient: embedding once and
once), attention over all L × L pairs, and the projection of the images. Drawing random words is integer work, and is not
counted. It must move, in floats of 4 bytes,

    10·P  +  4·B·L·N·(4·D + 4·K + 2·F + H·L)

where the P parameters are read forward and backward and Adam reads four numbers of each and writes three, the gradient being
written before; activations and their gradients are written and read once, matrices never leave the cache.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gpicl_jax.bench.measure import Compiled, Side, Timings, compile_apart, spread
from gpicl_jax.bench.program import draw_batch, flat_batch, random_tasks, shape_of
from gpicl_jax.bench.rows import Row
from gpicl_jax.build import make_learner, make_optimizer
from gpicl_jax.hyper import hyper_from
from gpicl_jax.sections import Config
from gpicl_jax.tasks.sources.images import ImageDataset
from gpicl_jax.training.step import init_state, num_params

_TABLE = "roofline"
PRODUCT = {"cpu": 2048}
_PRODUCT_ELSEWHERE = 8192
COPIED = 2**26  # floats


def roofline_sides() -> list[Side]:
    """A large square float32 product, and a copy of a long array: their units are operations and bytes."""
    size = PRODUCT.get(jax.default_backend(), _PRODUCT_ELSEWHERE)
    square = jax.random.normal(jax.random.key(0), (size, size))
    long = jnp.ones(COPIED)
    product, copy = compile_apart(jnp.matmul, square, square), compile_apart(lambda x: x + 1, long)
    return [
        Side(f"product of {size} × {size}", lambda: product.run(square, square), 2.0 * size**3),
        Side("copy", lambda: copy.run(long), 2.0 * 4 * COPIED),
    ]


def flops_by_hand(config: Config) -> float:
    """Of a step, see the top of the file."""
    model, tasks = config.model, config.tasks
    wide, mlp_width = model.num_heads * model.head_size, model.mlp_width or 4 * model.width
    num_features, num_classes = config.data.num_features, tasks.classes_per_task
    blocks = model.num_layers * (4 * model.width * wide + 2 * model.width * mlp_width + 2 * tasks.length * wide)
    per_token = 3 * (blocks + num_classes * model.width) + 2 * (num_features + num_classes) * model.width
    return 2.0 * np.prod(shape_of(config)) * tasks.length * (per_token + num_features**2)


def bytes_by_hand(config: Config, params: int) -> float:
    """Of a step, see the top of the file."""
    model, tasks = config.model, config.tasks
    wide, mlp_width = model.num_heads * model.head_size, model.mlp_width or 4 * model.width
    kept = model.num_layers * (4 * model.width + 4 * wide + 2 * mlp_width + model.num_heads * tasks.length)
    return 4.0 * (10 * params + 4 * np.prod(shape_of(config)) * tasks.length * kept)


def roofline_rows(config: Config, images: ImageDataset, timings: Timings, step: str, limits: Sequence[Side]) -> list[Row]:
    """Work by hand and as XLA counts it (without generation), the machine's rates, the bound, and the share of it reached.

    Args:
      config: of the step, a Transformer's.
      images: base dataset.
      timings: with those of `step` and of `limits`.
      step: name of the side that takes the steps.
      limits: from `roofline_sides`.
    """
    product, copy = (timings[side.name] for side in limits)
    compiled, params = _update_alone(config, images)
    found = {
        f"{limits[0].name}, GFLOP/s": 1e-9 / product,
        f"{limits[1].name}, GB/s": 1e-9 / copy,
        "a step without generation, as XLA counts: GFLOP": compiled.flops / 1e9,
        "a step without generation, as XLA counts: GB": compiled.bytes / 1e9,
    }
    if config.model.name == "transformer" and config.model.layout == "shifted":
        flops, moved = flops_by_hand(config), bytes_by_hand(config, params)
        bound_R = np.maximum(flops * product, moved * copy)
        found |= {
            "a step by hand: GFLOP": flops / 1e9,
            "a step by hand: GB": moved / 1e9,
            "a step at the machine's rates, ms": 1e3 * bound_R,
            "a step as measured, ms": 1e3 * timings[step],
            "share of the bound that is reached": bound_R / timings[step],
        }
    return [Row(_TABLE, name, "value", *spread(value)) for name, value in found.items()]


def _update_alone(config: Config, images: ImageDataset) -> tuple[Compiled, int]:
    """A step whose episodes are given: no loop in it, so that XLA's count is whole."""
    learner, optimizer, hyper = make_learner(config), make_optimizer(config), hyper_from(config)
    tasks = random_tasks(config, images)
    episodes_B = jax.eval_shape(lambda: flat_batch(draw_batch(config)(tasks, np.int32(0), hyper)))
    state = jax.eval_shape(lambda: init_state(learner, optimizer, hyper))

    def update(state, episodes_B):
        def mean_loss(params):
            key = jax.random.key(0)
            return jax.vmap(lambda episode: learner.loss(params, episode, key=key)[0])(episodes_B).mean()

        gradients = jax.grad(mean_loss)(state.params)
        updates, opt_state = optimizer(hyper).update(gradients, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    return compile_apart(update, state, episodes_B), num_params(state.params)
