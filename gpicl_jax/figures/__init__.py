"""Tidy DataFrames in, matplotlib figures out; nothing here trains or evaluates."""

from gpicl_jax.figures.benchmarks import benchmarks
from gpicl_jax.figures.comparison import comparison
from gpicl_jax.figures.context_size import context_size
from gpicl_jax.figures.equivariant import equivariant
from gpicl_jax.figures.features import features
from gpicl_jax.figures.few_shot import few_shot
from gpicl_jax.figures.learning_curves import learning_curves
from gpicl_jax.figures.learning_curves_of_seeds import learning_curves_of_seeds
from gpicl_jax.figures.omniglot_maml import inner_losses, meta_losses, omniglot_maml
from gpicl_jax.figures.plateau import plateau
from gpicl_jax.figures.sample_efficiency import sample_efficiency
from gpicl_jax.figures.scaling import scaling
from gpicl_jax.figures.state_size import state_size
from gpicl_jax.figures.symmetries import symmetries
from gpicl_jax.figures.tasks import tasks
from gpicl_jax.figures.transition import transition

__all__ = [
    "benchmarks",
    "comparison",
    "context_size",
    "equivariant",
    "features",
    "few_shot",
    "inner_losses",
    "learning_curves",
    "learning_curves_of_seeds",
    "meta_losses",
    "omniglot_maml",
    "plateau",
    "sample_efficiency",
    "scaling",
    "state_size",
    "symmetries",
    "tasks",
    "transition",
]
