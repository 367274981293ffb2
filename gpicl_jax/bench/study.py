"""Meta-steps per second and memory of MAML with the convolutional network of the study on Omniglot."""

import jax

from gpicl_jax.bench import maml
from gpicl_jax.bench.measure import Row, compile_apart, row
from gpicl_jax.bench.program import Asked, Program
from gpicl_jax.sections import Config

TAKES = (*maml.TAKES, "train.accumulate")
ONE_DEVICE_A_CORE = True
INNER_STEPS = (15, 45, 135)


def measure(config: Config, asked: Asked) -> list[Row]:
    """Measures what `bench.maml` does, then the memory of one problem's meta-gradient against the number of inner steps.

    Memory is what XLA plans beside weights and gradient, at second order, with and without recomputed steps.
    """
    rows, table = maml.measure(config, asked), "memory of one problem, second order"
    program = Program(config)
    episode = jax.tree.map(lambda leaf: leaf[0], maml.problems(program))
    for steps in INNER_STEPS:
        for remat, word in ((False, "jax"), (True, "jax, remat")):
            inner = {"inner_steps": steps, "first_order": False, "remat": remat}
            learner = program.changed(learner=inner).learner

            def loss(params, episode, learner=learner):
                return learner.loss(params, episode, key=jax.random.key(0))[0]

            _, costs = compile_apart(jax.grad(loss), jax.jit(learner.init)(jax.random.key(0)), episode)
            rows.append(row(table, f"{word}, {steps} inner steps", "temporaries MB", costs["temporaries MB"]))
    return rows
