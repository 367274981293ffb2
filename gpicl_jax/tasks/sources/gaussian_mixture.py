"""Tables whose classes are mixtures of Gaussians."""

import dataclasses

import jax
import jax.numpy as jnp

from gpicl_jax.registry import register
from gpicl_jax.settings import setting
from gpicl_jax.tasks.randomness import random_normal, random_uniform, random_words
from gpicl_jax.tasks.sources.tabular import DrawRows, Tabular, draw_labels, rounded

_FACTORS = 4
_SMALLEST = 0.2  # distance of the means, as a share of the largest
_DIAGONAL = 0.5  # spread of the log-deviations of a class


@register("gaussian_mixture")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianMixture(Tabular):
    """Tables whose classes are mixtures of Gaussians with random means. The covariance of a class is diagonal + low rank.

    x = m_yp + D_y z + B_y f, with m the mean of component p, 4 factors f, and z, f standard normal. Of the u useful features
    D_y is log-normal, B_y normal, and m_yp ~ N(0, s²/u). Others are standard normal.

    Example:
      >>> from gpicl_jax.tasks.sources.base import Drawing
      >>> draw = jax.jit(GaussianMixture(16).draw, static_argnums=2)
      >>> draw(jax.random.key(0), jax.random.key(1), Drawing(20, 10, False)).pixels_LX.shape
      (20, 16)
    """

    components: int = setting(3, "most Gaussians of a class", minimum=1, maximum=100, static=True)
    separation: float = setting(6.0, "largest s: the distance of a component from the origin", above=0.0, static=True)

    name = "gaussian_mixture"

    def law(self, key: jax.Array, useful_X: jax.Array, shares_C: jax.Array) -> DrawRows:
        mean_key, separation_key, number_key, diagonal_key, strength_key, loading_key = jax.random.split(key, 6)
        (num_classes,), (num_features,) = shares_C.shape, useful_X.shape
        separation = self.separation * (_SMALLEST + (1 - _SMALLEST) * random_uniform(separation_key, ()))
        mean_CPX = random_normal(mean_key, (num_classes, self.components, num_features)) * useful_X[None, None]
        mean_CPX = rounded(mean_CPX * separation / jnp.sqrt(useful_X.sum()))
        number_C = 1 + random_words(number_key, (num_classes,)) % jnp.uint32(self.components)
        diagonal_CX = rounded(jnp.exp(_DIAGONAL * useful_X[None] * random_normal(diagonal_key, (num_classes, num_features))))
        loading_CFX = random_normal(loading_key, (num_classes, _FACTORS, num_features)) * useful_X[None, None]
        loading_CFX = rounded(loading_CFX * random_uniform(strength_key, (num_classes, 1, 1)) / _FACTORS**0.5)

        share_CP = (jnp.arange(self.components)[None] < number_C[:, None]) * (shares_C / number_C)[:, None]
        center_X = jnp.einsum("cp,cpx->x", share_CP, mean_CPX, precision="highest")
        variance_X = jnp.einsum("cp,cpx->x", share_CP, (mean_CPX - center_X[None, None]) ** 2, precision="highest")
        variance_X += (shares_C[:, None] * (diagonal_CX**2 + (loading_CFX**2).sum(axis=1))).sum(axis=0)
        center_X, std_X = rounded(center_X), rounded(jnp.sqrt(variance_X))

        def draw_rows(key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
            label_key, component_key, own_key, common_key = jax.random.split(key, 4)
            labels_N = draw_labels(label_key, shares_C, num)
            component_N = random_words(component_key, (num,)) % number_C[labels_N]
            x_NX = diagonal_CX[labels_N] * random_normal(own_key, (num, num_features))
            x_NX += jnp.einsum(
                "nf,nfx->nx", random_normal(common_key, (num, _FACTORS)), loading_CFX[labels_N], precision="highest"
            )
            x_NX += mean_CPX[labels_N, component_N]
            return (x_NX - center_X[None]) / std_X[None], labels_N

        return draw_rows
