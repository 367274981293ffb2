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

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gpicl_jax.models.base import ContextModel, dtype_setting
from gpicl_jax.models.transformer import ACTIVATIONS, REMAT_BLOCKS, learned_positions
from gpicl_jax.registry import register
from gpicl_jax.settings import setting

_FEW = 1e-5  # of their squares: examples that are closer count as equal, as float32 cannot tell them apart
_FARTHEST = 1e4  # norm of a query, in units of the largest number of the context, whose own norms are below for X < 10⁸
_LARGEST = 1e15  # number of a query, in these units: the sum of its squares is a float32 number
_SHARPEST = 20.0  # bandwidth of the last head at first, in units of the mean squared distance; that of the first head is 1
_ONE = float(np.log(np.e - 1))  # softplus of it is 1

Geometry = tuple[jax.Array, jax.Array]  # distances and cosines [L, L]


@register("equivariant_transformer")
class EquivariantTransformer(ContextModel):
    """A Transformer with the tasks' symmetries. Row i < n is context, row i ≥ n a query that sees the context and its own x.

    No weight depends on C. Parameters, distances, softmax and logits are float32 whatever the dtype.

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
    def __call__(self, x_LX: jax.Array, y_L: jax.Array, num_context: jax.Array | int) -> jax.Array:
        in_context_L = jnp.arange(len(y_L)) < num_context
        label_LC = jax.nn.one_hot(y_L, self.num_classes, dtype=x_LX.dtype) * in_context_L[:, None]
        h_LCD, pairs = self.embed(x_LX, label_LC, in_context_L)
        block = nn.remat(EquivariantBlock) if self.remat else EquivariantBlock
        mask_LL = in_context_L[None] | jnp.eye(len(y_L), dtype=bool)
        for layer in range(self.num_layers):
            h_LCD = block(
                num_heads=self.num_heads,
                head_size=self.head_size,
                mlp_width=self.mlp_width or 2 * self.width,
                activation=self.activation,
                dtype=self.dtype,
                name=f"block_{layer}",
            )(h_LCD, pairs, mask_LL)
        logits_LC = self.read_out(nn.LayerNorm(epsilon=1e-5, name="norm_out")(h_LCD))
        return jnp.where(jnp.isfinite(x_LX).all(axis=1, keepdims=True), logits_LC, jnp.nan)

    def embed(self, x_LX: jax.Array, label_LC: jax.Array, in_context_L: jax.Array) -> tuple[jax.Array, Geometry | None]:
        """Returns the input of the first block: the streams [L, C, D], and the geometry of pairs of examples for attention."""
        size_L, distance_LL, cosine_LL = geometry(x_LX, in_context_L)
        inputs_LCI = class_streams(size_L, distance_LL, label_LC, in_context_L)
        return nn.Dense(self.width, dtype=self.dtype, name="embed")(inputs_LCI), (distance_LL, cosine_LL)

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
    def __call__(self, h_LCD: jax.Array, pairs: Geometry | None, mask_LL: jax.Array) -> jax.Array:
        length, num_classes, width = h_LCD.shape
        heads, size = self.num_heads, self.head_size
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5)
        u_LCD = norm(name="norm_attention")(h_LCD)
        pooled_LP = jnp.concatenate([u_LCD.mean(axis=1), _largest(u_LCD)], axis=-1)

        query_LHE = dense(heads * size, name="query")(pooled_LP).reshape(length, heads, size)
        key_LHE = dense(heads * size, use_bias=False, name="key")(pooled_LP).reshape(length, heads, size)
        by_self_H = self.param("by_self", nn.initializers.zeros, (heads,))
        score_HLM = jnp.einsum("lhe,mhe->hlm", query_LHE, key_LHE).astype(jnp.result_type(by_self_H)) / size**0.5
        score_HLM += by_self_H[:, None, None] * jnp.eye(length)[None]
        if pairs is not None:
            score_HLM += self._by_geometry(pooled_LP, *pairs)
        weight_HLM = jax.nn.softmax(jnp.where(mask_LL[None], score_HLM, -jnp.inf)).astype(self.dtype)

        value_MCHE = dense(heads * size, name="value")(u_LCD).reshape(length, num_classes, heads, size)
        mixed_LCHE = jnp.einsum("hlm,mche->lche", weight_HLM, value_MCHE)
        h_LCD = h_LCD + dense(width, name="out")(mixed_LCHE.reshape(length, num_classes, heads * size))

        u_LCD = norm(name="norm_mlp")(h_LCD)
        hidden_LCF = dense(self.mlp_width, name="mlp_in")(u_LCD)
        hidden_LCF += dense(self.mlp_width, use_bias=False, name="mlp_in_others")(u_LCD.mean(axis=1))[:, None]
        return h_LCD + dense(width, name="mlp_out")(ACTIVATIONS[self.activation](hidden_LCF))

    def _by_geometry(self, pooled_LP: jax.Array, distance_LL: jax.Array, cosine_LL: jax.Array) -> jax.Array:
        """Returns what distances and cosines add to the scores, [H, L, L]."""
        heads = self.num_heads
        bandwidth = nn.Dense(heads, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype, name="bandwidth")
        sharpness_LH = nn.softplus(bandwidth(pooled_LP) + _ONE)
        first_H = np.log(np.geomspace(1.0, _SHARPEST, heads))
        sharpness_LH *= jnp.exp(self.param("sharpness", lambda _: jnp.asarray(first_H, jnp.float32)))[None]
        by_cosine_H = self.param("by_cosine", nn.initializers.zeros, (heads,))
        return by_cosine_H[:, None, None] * cosine_LL[None] - sharpness_LH.T[:, :, None] * distance_LL[None]


def _largest(u_LCD: jax.Array) -> jax.Array:
    """Returns the maximum over classes, [L, D]. Its gradient divides by no count of equal maxima, which a compiler that
    computes `u_LCD` again in another order can find to be zero.
    """
    is_largest_LCD = jnp.arange(u_LCD.shape[1])[None, :, None] == u_LCD.argmax(axis=1, keepdims=True)
    return jnp.where(is_largest_LCD, u_LCD, 0).sum(axis=1)


def geometry(x_LX: jax.Array, in_context_L: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns what is left of inputs without rotations, in units of the context. A scaling of x changes nothing.

    A squared norm is in units of its mean over the context, a squared distance in units of half its mean over the pairs of the
    context. Products are in full float32, because tf32 and bfloat16 would blur near neighbours. No query can spoil another's
    numbers: a query longer than 10⁴ times the largest number of the context is scaled down to that, and NaN counts as 0.

    Args:
      x_LX: inputs [L, X].
      in_context_L: bool [L].

    Returns:
      |x_i|² [L], |x_i − x_j|² [L, L], and cos(x_i, x_j) [L, L].

    Example:
      >>> square_L, distance_LL, cosine_LL = geometry(jnp.array([[3.0, 0.0], [0.0, 3.0]]), jnp.array([True, True]))
      >>> square_L.tolist(), distance_LL.tolist(), cosine_LL[0].tolist()
      ([1.0, 1.0], [[0.0, 2.0], [2.0, 0.0]], [1.0, 0.0])
    """
    weight_L = in_context_L.astype(x_LX.dtype)
    num = weight_L.sum()
    largest = jnp.where(in_context_L[:, None], jnp.abs(x_LX), 0).max()  # of the context alone: no query may change another
    x_LX = x_LX / jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1.0))  # whose squares might not be float32 numbers
    x_LX = jnp.where(in_context_L[:, None], x_LX, jnp.clip(jnp.nan_to_num(x_LX), -_LARGEST, _LARGEST))
    x_LX = x_LX * (_FARTHEST / jnp.maximum(jnp.linalg.norm(x_LX, axis=1), _FARTHEST))[:, None]
    gram_LL = jnp.matmul(x_LX, x_LX.T, precision="highest")
    square_L = jnp.diagonal(gram_LL)
    context_square = (square_L * weight_L).sum() / jnp.maximum(num, 1)
    unit = jnp.where(context_square > 0, context_square, 1.0)
    gram_LL, square_L = gram_LL / unit, square_L / unit
    both_LL = square_L[:, None] + square_L[None]
    distance_LL = both_LL - 2 * gram_LL
    distance_LL = jnp.where(distance_LL > _FEW * both_LL, distance_LL, 0.0)
    pair_LL = weight_L[:, None] * weight_L[None] * (1 - jnp.eye(len(weight_L)))
    mean_distance = (distance_LL * pair_LL).sum() / jnp.maximum(pair_LL.sum(), 1)
    half = jnp.where(num > 1, mean_distance / 2, 1.0)
    cosine_LL = gram_LL * jax.lax.rsqrt(jnp.maximum(square_L[:, None] * square_L[None], _FEW**2))
    return square_L, distance_LL / jnp.maximum(half, _FEW), cosine_LL


def class_streams(size_L: jax.Array, distance_LL: jax.Array, label_LC: jax.Array, in_context_L: jax.Array) -> jax.Array:
    """Returns the first numbers of a class's stream at each example.

    Args:
      size_L, distance_LL: see `geometry`.
      label_LC: one-hot labels of the context, 0 for queries.
      in_context_L: bool [L].

    Returns:
      [L, C, 6]: is it the example's label, the class's share of the context, is the example context, its norm, the distance of
      its nearest context, and the size of the context.

    Example:
      >>> label_LC, in_context_L = jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.array([True, False])
      >>> class_streams(jnp.ones(2), jnp.ones((2, 2)), label_LC, in_context_L)[1, 1, :3].tolist()
      [0.0, 3.0, 0.0]
    """
    num = in_context_L.sum()
    others_LL = in_context_L[None] & ~jnp.eye(len(size_L), dtype=bool)
    nearest_L = jnp.where(others_LL, distance_LL, jnp.inf).min(axis=1)
    nearest_L = jnp.where(others_LL.any(axis=1), nearest_L, 1.0)
    share_C = label_LC.sum(axis=0) / jnp.maximum(num, 1)
    of_row_IL = [in_context_L, jnp.sqrt(size_L), nearest_L, jnp.full(len(size_L), jnp.log1p(num) / 5)]
    columns = [3 * label_LC, 3 * share_C[None], *(each_L[:, None] for each_L in of_row_IL)]
    return jnp.stack(jnp.broadcast_arrays(*columns), axis=-1, dtype=size_L.dtype)


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

    def embed(self, x_LX: jax.Array, label_LC: jax.Array, in_context_L: jax.Array) -> tuple[jax.Array, Geometry | None]:
        zero_L, zero_LL = jnp.zeros_like(x_LX[:, 0]), jnp.zeros((len(x_LX), len(x_LX)), x_LX.dtype)
        inputs_LCI = class_streams(zero_L, zero_LL, label_LC, in_context_L)
        h_LCD = nn.Dense(self.width, dtype=self.dtype, name="embed")(inputs_LCI)
        return h_LCD + nn.Dense(self.width, dtype=self.dtype, name="embed_x")(x_LX)[:, None], None


@register("equivariant_without_label_permutations")
class WithoutLabelPermutations(EquivariantTransformer):
    """The equivariant Transformer without label permutations: one stream for each example and its label, not for each class.

    Example:
      >>> model = WithoutLabelPermutations(num_classes=10, width=8, num_layers=1, num_heads=2, head_size=4)
      >>> model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.arange(20) % 10, 15)[0].shape
      (20, 10)
    """

    def embed(self, x_LX: jax.Array, label_LC: jax.Array, in_context_L: jax.Array) -> tuple[jax.Array, Geometry | None]:
        size_L, distance_LL, cosine_LL = geometry(x_LX, in_context_L)
        inputs_LCI = class_streams(size_L, distance_LL, label_LC, in_context_L)
        of_classes_L1I = inputs_LCI[..., :2].reshape(len(x_LX), 1, -1)  # its label, and the shares of all
        inputs_L1I = jnp.concatenate([of_classes_L1I, inputs_LCI[:, :1, 2:]], axis=-1)
        return nn.Dense(self.width, dtype=self.dtype, name="embed")(inputs_L1I), (distance_LL, cosine_LL)

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

    def embed(self, x_LX: jax.Array, label_LC: jax.Array, in_context_L: jax.Array) -> tuple[jax.Array, Geometry | None]:
        h_LCD, pairs = super().embed(x_LX, label_LC, in_context_L)
        return h_LCD + learned_positions(self, h_LCD[:, 0], self.max_length)[:, None], pairs
