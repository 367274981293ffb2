"""`gpicl experiment equivariant-transition`: `transition` by a learner that can memorise no projection and no permutation."""

import dataclasses

from gpicl_jax.experiments import transition
from gpicl_jax.experiments.run import Scale
from gpicl_jax.experiments.scaling import SMOKE
from gpicl_jax.experiments.transition import Grid

_SMALL = (
    *("--data.size=8", "--data.channels=1", "--tasks.entries=normal", "--tasks.feature_scales=0", "--tasks.clutter=0"),
    *("--tasks.permute_labels_prob=0.0", "--model.width=16", "--model.num_layers=3", "--model.head_size=4"),
)
_LAPTOP = ("--train.steps=400", "--train.chunk=50", "--train.validate_every=200", "--eval.episodes=512")
_SHORT = (*SMOKE, "--optimizer.warmup_steps=10", "--train.accumulate=1")


def _grid(log2_tasks: tuple[float, ...], other: str, overrides: tuple[str, ...]) -> Grid:
    return Grid("laptop", log2_tasks, other, (*_SMALL, *overrides), learner="equivariant")


EXPERIMENT = dataclasses.replace(
    transition.EXPERIMENT,
    name="equivariant-transition",
    about="accuracy gained against the number of tasks, by the equivariant learner",
    scales={
        "smoke": Scale(2, 4, _grid((0, 10), "random", _SHORT)),
        "laptop": Scale(5, 25, _grid((0, 2, 4, 8, 16), "fashion_mnist", _LAPTOP)),
        "paper": Scale(8, 64, _grid(tuple(range(17)), "fashion_mnist", ("--train.steps=10000",))),
    },
)
