"""How a model becomes a learning algorithm: everything behind the `Learner` protocol."""

from gpicl_jax.learners.base import Learner, score_rows
from gpicl_jax.learners.in_context import InContext
from gpicl_jax.learners.reference import KernelRidge, NearestNeighbour

__all__ = ["InContext", "KernelRidge", "Learner", "NearestNeighbour", "score_rows"]
