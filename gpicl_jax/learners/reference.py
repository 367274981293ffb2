"""Reference solvers as learners: plain methods on the rows that a learner sees. Nothing is meta-learned.

They predict row i from the rows before it, for all i at once. Their outputs rank the labels and are no logits. They have no
meta-objective: they are scored, never trained.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from gpicl_jax.learners.base import Learner, Params
from gpicl_jax.tasks.episode import Episode

# Full float32: tf32 and bfloat16 would blur the distances of near neighbours.
_matmul = functools.partial(jnp.matmul, precision="highest")


@dataclasses.dataclass(frozen=True)
class NearestNeighbour(Learner):
    """1-NN: the label of the nearest earlier example (Euclidean, the earliest of equals).

    Example:
      >>> episode = Episode(jnp.array([[0.0], [5.0], [0.4]]), jnp.array([3, 1, 3]), jnp.int32(3))
      >>> NearestNeighbour(num_classes=10).predict({}, episode, key=None).argmax(1).tolist()[1:]
      [3, 3]
    """

    num_classes: int

    def init(self, key: jax.Array) -> Params:
        return {}

    def predict(self, params: Params, episode: Episode, *, key: jax.Array) -> jax.Array:
        length = len(episode.y_L)
        distance_LL = jnp.where(jnp.tri(length, k=-1, dtype=bool), squared_distances(episode.x_LX), jnp.inf)
        nearest_LC = jax.nn.one_hot(episode.y_L[distance_LL.argmin(axis=1)], self.num_classes)
        return nearest_LC.at[0].set(0.0)  # nothing comes before it

    def scored_rows(self, episode: Episode) -> jax.Array:
        return jnp.arange(len(episode.y_L)) > 0


@dataclasses.dataclass(frozen=True)
class KernelRidge(Learner):
    """Ridge regression onto one-hot labels: f_i = k_iᵀ (K_{<i} + αI)⁻¹ Y_{<i}. The largest output wins.

    One Cholesky factor serves all rows: with K + αI = R Rᵀ, row i of R is R_{<i}⁻¹ k_i, so f_i = R_{i,<i} · (R⁻¹Y)_{<i}
    (Rasmussen & Williams 2006, *Gaussian Processes for Machine Learning*, equation 2.25 and section A.4).

    Its `params` are `alpha` and, for `rbf`, `gamma`: scalars > 0, to be chosen on validation tasks.

    Attributes:
      kernel: `linear`, x·x'/X, or `rbf`, exp(−γ|x − x'|²/X).

    Example:
      >>> episode = Episode(jnp.array([[0.0], [5.0], [0.4]]), jnp.array([3, 1, 3]), jnp.int32(3))
      >>> solver = KernelRidge(num_classes=10, kernel="rbf")
      >>> solver.predict({"alpha": 0.1, "gamma": 0.3}, episode, key=None).argmax(1).tolist()[1:]
      [3, 3]
    """

    num_classes: int
    kernel: str

    def init(self, key: jax.Array) -> Params:
        return {"alpha": jnp.float32(0.1)} | ({"gamma": jnp.float32(0.15)} if self.kernel == "rbf" else {})

    def predict(self, params: Params, episode: Episode, *, key: jax.Array) -> jax.Array:
        length, num_features = episode.x_LX.shape
        if self.kernel == "rbf":
            kernel_LL = jnp.exp(-params["gamma"] / num_features * squared_distances(episode.x_LX))
        else:
            kernel_LL = _matmul(episode.x_LX, episode.x_LX.T) / num_features
        factor_LL = jnp.linalg.cholesky(kernel_LL + params["alpha"] * jnp.eye(length))
        targets_LC = jax.nn.one_hot(episode.y_L, self.num_classes)
        solved_LC = jax.scipy.linalg.solve_triangular(factor_LL, targets_LC, lower=True)
        return _matmul(jnp.tril(factor_LL, -1), solved_LC)

    def scored_rows(self, episode: Episode) -> jax.Array:
        return jnp.arange(len(episode.y_L)) > 0


def squared_distances(x_LX: jax.Array) -> jax.Array:
    """Returns |x_i − x_j|², float32 [L, L]."""
    products_LL = _matmul(x_LX, x_LX.T)
    norms_L = jnp.diagonal(products_LL)
    return jnp.maximum(norms_L[:, None] + norms_L[None] - 2 * products_LL, 0.0)
