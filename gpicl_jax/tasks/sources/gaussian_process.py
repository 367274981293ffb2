"""Tables whose labels are functions drawn from a Gaussian process."""

import dataclasses

import jax
import jax.numpy as jnp

from gpicl_jax.registry import register
from gpicl_jax.settings import setting
from gpicl_jax.tasks.randomness import random_normal, random_uniform
from gpicl_jax.tasks.sources.tabular import DrawRows, Tabular, correlated_normals, labelled_by_values

_WAVES = 128
_LONGEST = 8.0  # length scale, in units of the shortest one


@register("gaussian_process")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianProcess(Tabular):
    """Tables whose labels are functions of draws from a Gaussian process with an RBF kernel. Features are normal.

    Draws are f(x) = Σ_w a_w cos(ω_w x + φ_w), random Fourier features (Rahimi & Recht 2007), one for each class. With u useful
    features and the length scale l, ω ~ N(0, 1/(u l²)). log l is uniform.

    Example:
      >>> from gpicl_jax.tasks.sources.base import Drawing
      >>> draw = jax.jit(GaussianProcess(16).draw, static_argnums=2)
      >>> draw(jax.random.key(0), jax.random.key(1), Drawing(20, 10, False)).pixels_LX.shape
      (20, 16)
    """

    length_scale: float = setting(0.5, "shortest length scale l; the longest is 8 times as long", above=0.0, static=True)

    name = "gaussian_process"

    def law(self, key: jax.Array, useful_X: jax.Array, shares_C: jax.Array) -> DrawRows:
        input_key, scale_key, wave_key, phase_key, weight_key, label_key = jax.random.split(key, 6)
        draw_inputs = correlated_normals(input_key, len(useful_X))
        scale = self.length_scale * _LONGEST ** random_uniform(scale_key, ()) * jnp.sqrt(useful_X.sum())
        wave_XW = random_normal(wave_key, (len(useful_X), _WAVES)) * useful_X[:, None] / scale
        phase_W = 2 * jnp.pi * random_uniform(phase_key, (_WAVES,))
        weight_WC = random_normal(weight_key, (_WAVES, len(shares_C)))

        def draw_values(key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
            x_NX = draw_inputs(key, num)
            wave_NW = jnp.cos(jnp.matmul(x_NX, wave_XW, precision="highest") + phase_W[None])
            return x_NX, jnp.matmul(wave_NW, weight_WC, precision="highest")

        return labelled_by_values(draw_values, label_key, shares_C)
