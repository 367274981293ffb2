"""Tables whose features and labels are units of a random MLP."""

import dataclasses

import jax
import jax.numpy as jnp

from gpicl_jax.registry import register
from gpicl_jax.settings import setting
from gpicl_jax.tasks.randomness import random_normal, random_uniform, random_words
from gpicl_jax.tasks.sources.tabular import REFERENCE_ROWS, DrawRows, Tabular, labelled_by_values, rounded

_NOISE = 0.1  # deviation of what a feature has beside its unit


@register("random_mlp")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RandomMLP(Tabular):
    """Tables whose features are random units of a random MLP of normal inputs, and whose labels come from its last layer.

    This is the structural causal model of TabPFN's prior (Hollmann et al. 2023, arXiv 2207.01848) in its simplest form. A task
    has its own weights, gain, depth and activation: tanh, leaky ReLU or sine. It has no more inputs than useful
    features.

    Example:
      >>> from gpicl_jax.tasks.sources.base import Drawing
      >>> draw = jax.jit(RandomMLP(16).draw, static_argnums=2)
      >>> draw(jax.random.key(0), jax.random.key(1), Drawing(20, 10, False)).pixels_LX.shape
      (20, 16)
    """

    width: int = setting(32, "units of a layer, and inputs", minimum=1, maximum=10_000, static=True)
    num_layers: int = setting(3, "most hidden layers; the fewest is 1", minimum=1, maximum=100, static=True)

    name = "random_mlp"

    def law(self, key: jax.Array, useful_X: jax.Array, shares_C: jax.Array) -> DrawRows:
        keys = jax.random.split(key, 9)
        weight_key, bias_key, gain_key, number_key, kind_key, unit_key, readout_key, label_key, reference_key = keys
        layers, width, (num_features,) = self.num_layers, self.width, useful_X.shape
        gain = 0.5 + 2 * random_uniform(gain_key, ())
        weight_KHH = gain / jnp.sqrt(width) * random_normal(weight_key, (layers, width, width))
        bias_KH = random_normal(bias_key, (layers, width))
        causes, depth = 1 + random_words(number_key, (2,)) % jnp.stack([useful_X.sum(dtype=jnp.uint32), jnp.uint32(layers)])
        activation = (random_words(kind_key, ()) % 3).astype(jnp.int32)
        unit_X = random_words(unit_key, (num_features,)) % (width * (depth + 1))
        readout_HC = random_normal(readout_key, (width, len(shares_C)))

        def draw_units(key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
            units = [random_normal(key, (num, width))[:, jnp.arange(width) % causes]]
            for layer in range(layers):
                z_NH = jnp.matmul(units[-1], weight_KHH[layer], precision="highest") + bias_KH[layer][None]
                z_NH = jax.lax.select_n(activation, jnp.tanh(z_NH), jax.nn.leaky_relu(z_NH, 0.1), jnp.sin(z_NH))
                units.append(jnp.where(layer < depth, z_NH, units[-1]))
            return jnp.concatenate(units, axis=1)[:, unit_X], jnp.matmul(units[-1], readout_HC, precision="highest")

        reference_NX, _ = draw_units(reference_key, REFERENCE_ROWS)
        mean_X, std_X = rounded(reference_NX.mean(axis=0)), rounded(reference_NX.std(axis=0))

        def draw_values(key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
            key, noise_key = jax.random.split(key)
            units_NX, values_NC = draw_units(key, num)
            units_NX = (units_NX - mean_X[None]) / std_X[None]
            noise_NX = random_normal(noise_key, (num, num_features))
            return jnp.where(useful_X[None], jnp.sqrt(1 - _NOISE**2) * units_NX + _NOISE * noise_NX, noise_NX), values_NC

        return labelled_by_values(draw_values, label_key, shares_C)
