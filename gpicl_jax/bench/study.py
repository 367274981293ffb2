"""`gpicl bench study`: a meta-step of MAML with the convolutional network of the study on Omniglot, and its memory."""

import dataclasses

import jax

from gpicl_jax.bench import maml
from gpicl_jax.bench.asked import Asked
from gpicl_jax.bench.measure import compile_apart
from gpicl_jax.bench.rows import Row, number
from gpicl_jax.build import make_learner
from gpicl_jax.sections import Config

INNER_STEPS = (15, 45, 135)


def measure(config: Config, asked: Asked) -> list[Row]:
    """What `bench.maml` measures; then the memory of one problem's meta-gradient against the number of inner steps."""
    return maml.measure(config, asked) + memory_rows(config)


def memory_rows(config: Config) -> list[Row]:
    """Megabytes that XLA plans beside weights and gradient, of second order, with and without recomputed steps."""
    episode = jax.tree.map(lambda leaf: leaf[0], maml.problems(config))
    rows = []
    for steps in INNER_STEPS:
        for remat, word in ((False, "jax"), (True, "jax, remat")):
            inner = dataclasses.replace(config.learner, inner_steps=steps, first_order=False, remat=remat)
            learner = make_learner(dataclasses.replace(config, learner=inner))
            params = jax.jit(learner.init)(jax.random.key(0))

            def meta_gradient(params, episode, learner=learner):
                return jax.grad(lambda params: learner.loss(params, episode, key=jax.random.key(0))[0])(params)

            temporaries = compile_apart(meta_gradient, params, episode).temp_bytes
            rows.append(
                number(
                    "memory of one problem, second order", f"{word}, {steps} inner steps", "temporaries MB", temporaries / 1e6
                )
            )
    return rows
