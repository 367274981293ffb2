"""How a model becomes a learning algorithm: everything behind the `Learner` protocol."""

from gpicl_jax.learners.base import Learner, check_fits, check_memory, score_rows
from gpicl_jax.learners.context_query import ContextQuery
from gpicl_jax.learners.in_context import InContext
from gpicl_jax.learners.instance import Instance
from gpicl_jax.learners.maml import InnerLoop, Maml
from gpicl_jax.learners.online import Online
from gpicl_jax.learners.reference import KernelRidge, NearestNeighbour

__all__ = [
    "ContextQuery",
    "InContext",
    "InnerLoop",
    "Instance",
    "KernelRidge",
    "Learner",
    "Maml",
    "NearestNeighbour",
    "Online",
    "check_fits",
    "check_memory",
    "score_rows",
]
