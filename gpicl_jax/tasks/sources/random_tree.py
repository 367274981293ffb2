"""Tables whose labels are functions of random oblivious trees."""

import dataclasses

import jax
import jax.numpy as jnp

from gpicl_jax.registry import register
from gpicl_jax.settings import setting
from gpicl_jax.tasks.randomness import random_normal, random_words
from gpicl_jax.tasks.sources.tabular import DrawRows, Tabular, correlated_normals, labelled_by_values

_NOISE = 1e-3  # of values, so that a leaf on a threshold is divided by chance


@register("random_tree")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RandomTree(Tabular):
    """Tables whose labels are functions of sums of random oblivious trees. Features are normal.

    An oblivious tree has one split for each level, on a useful feature. Leaves have normal values, one for each class.

    Example:
      >>> from gpicl_jax.tasks.sources.base import Drawing
      >>> draw = jax.jit(RandomTree(16).draw, static_argnums=2)
      >>> draw(jax.random.key(0), jax.random.key(1), Drawing(20, 10, False)).pixels_LX.shape
      (20, 16)
    """

    trees: int = setting(8, "most trees of a task", minimum=1, maximum=1000, static=True)
    depth: int = setting(4, "most levels of a tree; the fewest is 1", minimum=1, maximum=10, static=True)

    name = "random_tree"

    def law(self, key: jax.Array, useful_X: jax.Array, shares_C: jax.Array) -> DrawRows:
        input_key, feature_key, split_key, depth_key, number_key, leaf_key, label_key = jax.random.split(key, 7)
        shape = self.trees, self.depth
        draw_inputs = correlated_normals(input_key, len(useful_X))
        place_TK = random_words(feature_key, shape) % useful_X.sum(dtype=jnp.uint32)
        feature_TK = jnp.argsort(~useful_X, stable=True)[place_TK]
        split_TK = random_normal(split_key, shape)
        depth_T = 1 + random_words(depth_key, shape[:1]) % jnp.uint32(self.depth)
        step_TK = jnp.where(jnp.arange(self.depth)[None] < depth_T[:, None], 2 ** jnp.arange(self.depth)[None], 0)
        leaf_TVC = random_normal(leaf_key, (self.trees, 2**self.depth, len(shares_C)))
        number = 1 + random_words(number_key, ()) % jnp.uint32(self.trees)
        leaf_TVC *= (jnp.arange(self.trees) < number)[:, None, None]

        def draw_values(key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
            key, noise_key = jax.random.split(key)
            x_NX = draw_inputs(key, num)
            leaf_NT = ((x_NX[:, feature_TK] > split_TK[None]) * step_TK[None]).sum(axis=-1)
            values_NC = leaf_TVC[jnp.arange(self.trees)[None], leaf_NT].sum(axis=1)
            return x_NX, values_NC + _NOISE * random_normal(noise_key, values_NC.shape)

        return labelled_by_values(draw_values, label_key, shares_C)
