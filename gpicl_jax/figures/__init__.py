"""What several figures share: a look, learning curves, benchmarks. This folder trains and evaluates nothing."""

from gpicl_jax.figures.benchmarks import benchmarks
from gpicl_jax.figures.learning_curves import learning_curves

__all__ = ["benchmarks", "learning_curves"]
