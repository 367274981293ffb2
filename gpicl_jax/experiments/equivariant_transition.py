"""`gpicl experiment equivariant-transition`."""

from gpicl_jax.experiments.engine import SMOKE
from gpicl_jax.experiments.transition import Transition
from gpicl_jax.registry import register

_SMALL = (
    *("--data.size=8", "--data.channels=1", "--tasks.entries=normal", "--tasks.feature_scales=0", "--tasks.clutter=0"),
    *("--tasks.permute_labels_prob=0.0", "--model.width=16", "--model.num_layers=3", "--model.head_size=4"),
)
_SMOKE = (*SMOKE, "--optimizer.warmup_steps=10", "--train.accumulate=1")
_LAPTOP = ("--train.steps=400", "--train.chunk=50", "--train.validate_every=200", "--eval.episodes=512")


@register("equivariant-transition")
class EquivariantTransition(Transition):
    """Accuracy gained against the number of tasks, by a learner that can memorise no projection and no permutation."""

    learner: str = "equivariant"

    scales = {
        "smoke": dict(seeds=2, together=4, log2_tasks=(0, 10), datasets=("random",), overrides=(*_SMALL, *_SMOKE)),
        "laptop": dict(seeds=5, together=25, log2_tasks=(0, 2, 4, 8, 16), overrides=(*_SMALL, *_LAPTOP)),
        "paper": dict(together=64, log2_tasks=tuple(range(17)), overrides=(*_SMALL, "--train.steps=10000")),
    }
