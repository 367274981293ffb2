"""How a model becomes a learning algorithm: everything behind the `Learner` protocol."""

from gpicl_jax.learners.base import Learner, score_rows
from gpicl_jax.learners.in_context import InContext

__all__ = ["InContext", "Learner", "score_rows"]
