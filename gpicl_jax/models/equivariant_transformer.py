"""A Transformer with the symmetries of the tasks, and versions without one of them, for one episode.

A task is x → A x, y → ρ(y), with A_ij iid normal and ρ uniform. Three groups leave the law of its episodes unchanged. So the
best predictor has their symmetries, and this one has them by construction:

- O(X) × ℝ₊, rotations, reflections and scalings of the inputs: the logits are *invariant*. Of x only Gram matrices enter.
- S_C, permutations of the labels: the logits are *equivariant*. Each class is a separate stream, and all share their weights.
- S_n, orders of the context: the logits are *invariant*. There are no positions, and attention sums over the context.

The weights fit any number of features X, of classes C, and of examples L. EquiTabPFN (Arbel, Salinas & Hutter 2025, arXiv
2502.06684) has the second of these, for tables. VSML (Kirsch & Schmidhuber 2021, arXiv 2012.14905) has permutations of inputs
and of labels.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gpicl_jax.models.base import ContextModel, dtype_setting
from gpicl_jax.models.geometry import Geometry, Units, class_streams, geometry, geometry_of_queries
from gpicl_jax.models.transformer import ACTIVATIONS, REMAT_BLOCKS, learned_positions
from gpicl_jax.registry import register
from gpicl_jax.settings import setting

_SHARPEST = 20.0  # bandwidth of the last head at first, in units of the mean squared distance; that of the first head is 1
_ONE = float(np.log(np.e - 1))  # softplus of it is 1


class Context(NamedTuple):
    """A context as `EquivariantTransformer.encode` leaves it for its queries. Rows may be padding, which nothing attends to.

    Attributes:
      units: see `Units`, or None where inputs enter as they are.
      label_NC: one-hot labels, 0 for padding.
      in_context_N: whether a row is an example.
      memory: keys [N, H, E] and values [N, C, H, E] of each block.
    """

    units: Units | None
    label_NC: jax.Array
    in_context_N: jax.Array
    memory: tuple[tuple[jax.Array, jax.Array], ...]


@register("equivariant_transformer")
class EquivariantTransformer(ContextModel):
    """A Transformer with the tasks' symmetries. Row i < n is context, row i ≥ n a query that sees the context and its own x.

    No weight depends on C. Parameters, distances, softmax and logits are float32 whatever the dtype. The context sees no query.
    So `encode` can compute what queries need of it once, and `answer` gives their logits as if they had been in its episode.

    Example:
      >>> model = EquivariantTransformer(num_classes=10, width=8, num_layers=1, num_heads=2, head_size=4)
      >>> x_LX, y_L = jax.random.normal(jax.random.key(0), (20, 64)), jnp.arange(20) % 10
      >>> params = model.init(jax.random.key(1), x_LX, y_L, 15)
      >>> logits_LC = model.apply(params, x_LX, y_L, 15)
      >>> turned_LX, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(2), (64, 64)))
      >>> logits_LC.shape, bool(jnp.allclose(model.apply(params, 9 * x_LX @ turned_LX, y_L, 15), logits_LC, atol=1e-4))
      ((20, 10), True)
    """

    width: int = setting(32, "D, size of the stream of an example and a class", minimum=1)
    num_layers: int = setting(4, "blocks", minimum=1)
    num_heads: int = setting(4, "heads of attention", minimum=1)
    head_size: int = setting(8, "E, size of a head's queries and keys, and of its values for each class", minimum=1)
    mlp_width: int = setting(0, "hidden units of a block's MLP; 0 is 2 × width", minimum=0)
    activation: str = setting("gelu", "non-linearity of the MLPs", choices=tuple(ACTIVATIONS))
    dtype: str = dtype_setting()
    remat: bool = setting(False, REMAT_BLOCKS, free=True)

    any_features = True

    @nn.compact
    def __call__(
        self, x_LX: jax.Array, y_L: jax.Array, num_context: jax.Array | int, context: Context | None = None
    ) -> jax.Array:
        in_context_M = jnp.arange(len(y_L)) < num_context
        label_MC = jax.nn.one_hot(y_L, self.num_classes, dtype=x_LX.dtype) * in_context_M[:, None]
        if context is not None:  # M = N + L columns: the context, then the rows themselves
            in_context_M = jnp.concatenate([context.in_context_N, in_context_M])
            label_MC = jnp.concatenate([context.label_NC, label_MC])
        h_LCD, pairs, units = self.embed(x_LX, label_MC, in_context_M, context and context.units)
        self.sow("intermediates", "context", (units, label_MC, in_context_M))
        block = nn.remat(EquivariantBlock) if self.remat else EquivariantBlock
        mask_LM = in_context_M[None] | _eye(len(y_L), len(in_context_M))
        for layer in range(self.num_layers):
            h_LCD = block(
                num_heads=self.num_heads,
                head_size=self.head_size,
                mlp_width=self.mlp_width or 2 * self.width,
                activation=self.activation,
                dtype=self.dtype,
                name=f"block_{layer}",
            )(h_LCD, pairs, mask_LM, context and context.memory[layer])
        logits_LC = self.read_out(nn.LayerNorm(epsilon=1e-5, name="norm_out")(h_LCD))
        return jnp.where(jnp.isfinite(x_LX).all(axis=1, keepdims=True), logits_LC, jnp.nan)

    def encode(self, params: Any, x_NX: jax.Array, y_N: jax.Array, num_context: jax.Array | int) -> Context:
        """Returns what queries need of a context, whose rows from `num_context` on are padding. Not for a model with positions.

        Example:
          >>> model = EquivariantTransformer(num_classes=3, width=8, num_layers=1, num_heads=2, head_size=4)
          >>> x_LX, y_L = jax.random.normal(jax.random.key(0), (20, 5)), jnp.arange(20) % 3
          >>> params = model.init(jax.random.key(1), x_LX, y_L, 15)["params"]
          >>> logits_QC = model.answer(params, model.encode(params, x_LX[:15], y_L[:15], 15), x_LX[15:])
          >>> bool(jnp.allclose(logits_QC, model.apply({"params": params}, x_LX, y_L, 15)[15:], atol=1e-4))
          True
        """
        _, kept = self.apply({"params": params}, x_NX, y_N, num_context, mutable="intermediates")
        kept = kept["intermediates"]
        return Context(*kept["context"][0], tuple(kept[f"block_{layer}"]["memory"][0] for layer in range(self.num_layers)))

    def answer(self, params: Any, context: Context, x_QX: jax.Array) -> jax.Array:
        """Returns logits [Q, C] of queries, each of which sees the context and its own x."""
        return self.apply({"params": params}, x_QX, jnp.zeros(len(x_QX), jnp.int32), 0, context)

    def embed(
        self, x_LX: jax.Array, label_MC: jax.Array, in_context_M: jax.Array, units: Units | None
    ) -> tuple[jax.Array, Geometry | None, Units | None]:
        """Returns the streams [L, C, D] for the first block, the geometry of pairs for attention, and the context's units."""
        if units is None:
            size_L, pairs, units = geometry(x_LX, in_context_M)
        else:
            size_L, pairs = geometry_of_queries(x_LX, units)
        inputs_LCI = self.streams(size_L, pairs[0], label_MC, in_context_M)
        return nn.Dense(self.width, dtype=self.dtype, name="embed")(inputs_LCI), pairs, units

    def streams(self, size_L: jax.Array, distance_LM: jax.Array, label_MC: jax.Array, in_context_M: jax.Array) -> jax.Array:
        """Returns the first numbers of the streams, from `class_streams`."""
        return class_streams(size_L, distance_LM, label_MC, in_context_M)

    def read_out(self, h_LCD: jax.Array) -> jax.Array:
        """Returns logits [L, C] of the last streams. An offset would shift all logits of a row alike, without effect."""
        return nn.Dense(1, use_bias=False, name="head")(h_LCD)[..., 0]

    def training_bytes(self, length: int) -> int:
        """Returns the size of every layer's attention weights, H × L × L."""
        return 4 * (1 if self.remat else self.num_layers) * self.num_heads * length**2

    def state_size(self, num_features: int, length: int) -> int:
        """Returns the size of the inputs of `length` examples, and of the values and keys of all layers."""
        values = self.num_heads * self.head_size * (self.num_classes + 1)
        return length * (num_features + self.num_layers * values)


class EquivariantBlock(nn.Module):
    """Attention over the context by distance and content, with the same weights for every class, then an MLP for each class.

    score_ij = ⟨q_i, k_j⟩/√E − b_i d²_ij + a cos_ij + s 1(i = j) for each head: a kernel whose bandwidth b_i a row chooses.
    q, k and b come from the mean and the maximum over classes, and values from each class. So a layer can be a kernel
    regression of Nadaraya and Watson, and several layers a functional gradient descent (von Oswald et al. 2023, arXiv
    2212.07677; Cheng et al. 2023, arXiv 2312.06528).
    """

    num_heads: int
    head_size: int
    mlp_width: int
    activation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        h_LCD: jax.Array,
        pairs: Geometry | None,
        mask_LM: jax.Array,
        memory: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        length, num_classes, width = h_LCD.shape
        heads, size = self.num_heads, self.head_size
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5)
        u_LCD = norm(name="norm_attention")(h_LCD)
        pooled_LP = jnp.concatenate([u_LCD.mean(axis=1), _largest(u_LCD)], axis=-1)

        query_LHE = dense(heads * size, name="query")(pooled_LP).reshape(length, heads, size)
        key_MHE = dense(heads * size, use_bias=False, name="key")(pooled_LP).reshape(length, heads, size)
        value_MCHE = dense(heads * size, name="value")(u_LCD).reshape(length, num_classes, heads, size)
        if memory is not None:
            key_MHE, value_MCHE = jax.tree.map(lambda *each: jnp.concatenate(each), memory, (key_MHE, value_MCHE))
        self.sow("intermediates", "memory", (key_MHE, value_MCHE))
        by_self_H = self.param("by_self", nn.initializers.zeros, (heads,))
        score_HLM = jnp.einsum("lhe,mhe->hlm", query_LHE, key_MHE).astype(jnp.result_type(by_self_H)) / size**0.5
        score_HLM += by_self_H[:, None, None] * _eye(*mask_LM.shape, score_HLM.dtype)[None]
        if pairs is not None:
            score_HLM += self._by_geometry(pooled_LP, *pairs)
        weight_HLM = jax.nn.softmax(jnp.where(mask_LM[None], score_HLM, -jnp.inf)).astype(self.dtype)

        mixed_LCHE = jnp.einsum("hlm,mche->lche", weight_HLM, value_MCHE)
        h_LCD = h_LCD + dense(width, name="out")(mixed_LCHE.reshape(length, num_classes, heads * size))

        u_LCD = norm(name="norm_mlp")(h_LCD)
        hidden_LCF = dense(self.mlp_width, name="mlp_in")(u_LCD)
        hidden_LCF += dense(self.mlp_width, use_bias=False, name="mlp_in_others")(u_LCD.mean(axis=1))[:, None]
        return h_LCD + dense(width, name="mlp_out")(ACTIVATIONS[self.activation](hidden_LCF))

    def _by_geometry(self, pooled_LP: jax.Array, distance_LM: jax.Array, cosine_LM: jax.Array) -> jax.Array:
        """Returns what distances and cosines add to the scores, [H, L, M]."""
        heads = self.num_heads
        bandwidth = nn.Dense(heads, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype, name="bandwidth")
        sharpness_LH = nn.softplus(bandwidth(pooled_LP) + _ONE)
        first_H = np.log(np.geomspace(1.0, _SHARPEST, heads))
        sharpness_LH *= jnp.exp(self.param("sharpness", lambda _: jnp.asarray(first_H, jnp.float32)))[None]
        by_cosine_H = self.param("by_cosine", nn.initializers.zeros, (heads,))
        return by_cosine_H[:, None, None] * cosine_LM[None] - sharpness_LH.T[:, :, None] * distance_LM[None]


def _eye(length: int, columns: int, dtype: Any = bool) -> jax.Array:
    """Returns [L, M], 1 where a column is the row's own. The last L columns are the rows."""
    return jnp.eye(length, columns, columns - length, dtype=dtype)


def _largest(u_LCD: jax.Array) -> jax.Array:
    """Returns the maximum over classes, [L, D]. Its gradient divides by no count of equal maxima, which a compiler that
    computes `u_LCD` again in another order can find to be zero.
    """
    is_largest_LCD = jnp.arange(u_LCD.shape[1])[None, :, None] == u_LCD.argmax(axis=1, keepdims=True)
    return jnp.where(is_largest_LCD, u_LCD, 0).sum(axis=1)


@register("equivariant_without_rotations")
class WithoutRotations(EquivariantTransformer):
    """The equivariant Transformer without rotations: x itself enters the streams, and attention is by content alone.

    A linear map brings the X numbers of x to the width D. Without a Gram matrix it has no distances, norms and units.

    Example:
      >>> model = WithoutRotations(num_classes=10, width=8, num_layers=1, num_heads=2, head_size=4)
      >>> model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.arange(20) % 10, 15)[0].shape
      (20, 10)
    """

    any_features = False

    def embed(
        self, x_LX: jax.Array, label_MC: jax.Array, in_context_M: jax.Array, units: Units | None
    ) -> tuple[jax.Array, Geometry | None, Units | None]:
        zero_L, zero_LM = jnp.zeros_like(x_LX[:, 0]), jnp.zeros((len(x_LX), len(label_MC)), x_LX.dtype)
        inputs_LCI = class_streams(zero_L, zero_LM, label_MC, in_context_M)
        h_LCD = nn.Dense(self.width, dtype=self.dtype, name="embed")(inputs_LCI)
        return h_LCD + nn.Dense(self.width, dtype=self.dtype, name="embed_x")(x_LX)[:, None], None, None


@register("equivariant_without_label_permutations")
class WithoutLabelPermutations(EquivariantTransformer):
    """The equivariant Transformer without label permutations: one stream for each example and its label, not for each class.

    Example:
      >>> model = WithoutLabelPermutations(num_classes=10, width=8, num_layers=1, num_heads=2, head_size=4)
      >>> model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.arange(20) % 10, 15)[0].shape
      (20, 10)
    """

    def streams(self, size_L: jax.Array, distance_LM: jax.Array, label_MC: jax.Array, in_context_M: jax.Array) -> jax.Array:
        inputs_LCI = class_streams(size_L, distance_LM, label_MC, in_context_M)
        of_classes_L1I = inputs_LCI[..., :2].reshape(len(size_L), 1, -1)  # its label, and the shares of all
        return jnp.concatenate([of_classes_L1I, inputs_LCI[:, :1, 2:]], axis=-1)

    def read_out(self, h_LCD: jax.Array) -> jax.Array:
        return nn.Dense(self.num_classes, name="head")(h_LCD[:, 0])

    def state_size(self, num_features: int, length: int) -> int:
        """Returns the size of the inputs of `length` examples, and of the values and keys of all layers."""
        return length * (num_features + self.num_layers * 2 * self.num_heads * self.head_size)


@register("equivariant_without_context_permutations")
class WithoutContextPermutations(EquivariantTransformer):
    """The equivariant Transformer without context permutations: it adds a learned vector for each position to the streams.

    An episode that is longer than `max_length` raises ValueError.

    Example:
      >>> model = WithoutContextPermutations(num_classes=10, width=8, num_layers=1, num_heads=2, head_size=4)
      >>> model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.arange(20) % 10, 15)[0].shape
      (20, 10)
    """

    max_length: int = 100

    def embed(
        self, x_LX: jax.Array, label_MC: jax.Array, in_context_M: jax.Array, units: Units | None
    ) -> tuple[jax.Array, Geometry | None, Units | None]:
        h_LCD, *geometry = super().embed(x_LX, label_MC, in_context_M, units)
        return h_LCD + learned_positions(self, h_LCD[:, 0], self.max_length)[:, None], *geometry
