"""Variable shared meta learning (VSML): one tiny LSTM that all pairs of an input and an output share, for one episode.

Kirsch & Schmidhuber 2021 (arXiv 2012.14905), in the form of the authors' code of GPICL (google/learned_optimization, folder
research/data_driven, commit 32186aa). Axes: A inputs and B outputs of a layer, H numbers in an LSTM's hidden state, G = 4H.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from gpicl_jax.models.base import (
    PAIRED,
    SequenceModel,
    dtype_setting,
    fan_in_normal,
    images_of,
    label_scale_setting,
    labels_before,
    layout_setting,
)
from gpicl_jax.registry import register
from gpicl_jax.settings import UserError, setting

Cells = tuple[jax.Array, jax.Array]
REMAT_EXAMPLES = "recompute each example in the backward pass, which then keeps the states of L examples alone"


class SharedLSTM(nn.Module):
    """The LSTM of every pair (a, b), and the messages that it sends: all that VSML meta-learns.

    With u_a from input a's side, v_b from output b's side, and the same u and v in each of `micro_ticks` ticks:

      (h_ab, c_ab) ← LSTM([u_a, v_b], (h_ab, c_ab))
      f_b = mean_a Linear_f(h_ab),  g_a = mean_b Linear_g(h_ab)

    where LSTM has gates i, g, f, o in this order, and f = σ(· + 1). A mean passes through Linear, and [u_a, v_b] W is
    u_a W_u + v_b W_v. So only the recurrent product is done for each pair.

    Attributes:
      width: H.
      message_size: M.

    Returns:
      cells (h_HBA, c_HBA) after the ticks, forward messages f_BM, backward messages g_AM.
    """

    width: int
    message_size: int
    micro_ticks: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, cells: Cells, u_AU: jax.Array, v_BV: jax.Array) -> tuple[Cells, jax.Array, jax.Array]:
        h_HBA, c_HBA = cells
        u_size, v_size = u_AU.shape[1], v_BV.shape[1]
        kernel = self.param("kernel", fan_in_normal, (u_size + v_size + self.width, 4 * self.width))
        bias_G = self.param("bias", nn.initializers.zeros, (4 * self.width,))
        kernel_UG, kernel_VG, kernel_HG = jnp.split(kernel.astype(self.dtype), [u_size, u_size + v_size])
        product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        from_a_GA = product("ug,au->ga", kernel_UG, u_AU.astype(self.dtype))
        from_b_GB = product("vg,bv->gb", kernel_VG, v_BV.astype(self.dtype)) + bias_G[:, None]
        for _ in range(self.micro_ticks):
            from_h_GBA = product("hg,hba->gba", kernel_HG, h_HBA.astype(self.dtype))
            write, new, forget, out = jnp.split(from_a_GA[:, None] + from_b_GB[:, :, None] + from_h_GBA, 4)
            c_HBA = nn.sigmoid(forget + 1) * c_HBA + nn.sigmoid(write) * jnp.tanh(new)
            h_HBA = nn.sigmoid(out) * jnp.tanh(c_HBA)
        message = functools.partial(nn.Dense, self.message_size, kernel_init=fan_in_normal)
        return (h_HBA, c_HBA), message(name="forward")(h_HBA.mean(2).T), message(name="backward")(h_HBA.mean(1).T)


def resting_cells(width: int, num_inputs: int, num_outputs: int) -> Cells:
    """Returns (h_HBA, c_HBA), zeros."""
    zeros_HBA = jnp.zeros((width, num_outputs, num_inputs))
    return zeros_HBA, zeros_HBA


def random_cells(width: int, num_inputs: int, num_outputs: int, seed: int) -> Cells:
    """Returns (h_HBA, c_HBA), zeros but for half of c's H. That half is a fixed draw, so no two pairs are alike.

    Example:
      >>> h_HBA, c_HBA = random_cells(4, num_inputs=3, num_outputs=2, seed=0)
      >>> (abs(h_HBA).max((1, 2)) > 0).tolist(), (abs(c_HBA).max((1, 2)) > 0).tolist()
      ([False, False, False, False], [True, True, False, False])
    """
    h_HBA, c_HBA = resting_cells(width, num_inputs, num_outputs)
    draw_HBA = jax.random.truncated_normal(jax.random.key(seed), -2, 2, (width // 2, *c_HBA.shape[1:]))
    return h_HBA, c_HBA.at[: width // 2].set(draw_HBA)


def over_time(step: Callable, lstm: SharedLSTM, carry: Any, rows_L: Any, *, remat: bool) -> jax.Array:
    """Scans `step(lstm, carry, row) -> carry, output`. With `remat` only the carries are kept for the backward pass."""
    if remat:
        step = nn.remat(step, prevent_cse=False)
    return nn.scan(step, variable_broadcast="params", split_rngs={"params": False})(lstm, carry, rows_L)[1]


def grid_step(lstm: SharedLSTM, carry: Any, row: Any) -> tuple[Any, jax.Array]:
    """Takes an example of one grid: its rows x_AE and y_BE join the messages g_AM and f_BM of the example before it."""
    (cells, f_BM, g_AM), (x_AE, y_BE) = carry, row
    u_AU, v_BV = jnp.concatenate([g_AM, x_AE], axis=1), jnp.concatenate([f_BM, y_BE], axis=1)
    cells, f_BM, g_AM = lstm(cells, u_AU, v_BV)
    return (cells, f_BM, g_AM), f_BM


def deep_step(lstm: SharedLSTM, carry: Any, row: Any) -> tuple[Any, jax.Array]:
    """Takes an example of several grids, one after another: its rows x_AE and y_B1 are the messages at both ends."""
    cells, backward = carry
    forward, label = (jnp.pad(numbers, ((0, 0), (0, lstm.message_size - numbers.shape[1]))) for numbers in row)
    new_cells, new_backward = [], []
    for cells_of_layer, from_behind in zip(cells, [*backward, label], strict=True):
        cells_of_layer, forward, sent_back = lstm(cells_of_layer, forward, from_behind)
        new_cells.append(cells_of_layer)
        new_backward.append(sent_back)
    return (new_cells, new_backward[1:]), forward


@register("vsml")
class VSML(SequenceModel):
    """VSML: a grid of X·C pairs that share one LSTM. Row i sees x_0 … x_i and y_0 … y_{i−1}.

    Example t comes as scalars x_a, and its predecessor's one-hot label as scalars y_b (0 at t = 0). With `SharedLSTM`'s
    messages f_b, g_a of the previous example, the self-messages (zeros at first, as are h and c):

      u_a = [g_a, x_a],  v_b = [f_b, y_b],  (h, c, f, g) ← SharedLSTM,  logit_b = f_b[0]

    Permuting the inputs changes no logit, and permuting the labels permutes the logits. With the layout `paired` example t
    comes as pairs [x_a of t, x_a of t − 1] (0 at t = 0), so that a cell sees an image and its label at once.

    With `hidden` sizes the grids are X × n_1, n_1 × n_2, …, n_k × C, with the same weights, and no self-messages:

      u¹_a = x_a,  u^l_a = f^{l−1}_a of this example,  v^l_b = g^{l+1}_b of the previous example,  v^last_b = y_b

    in this order l = 1, 2, …, with scalars zero-padded to M. From zeros the units of a hidden layer would stay equal for
    ever. So half of c starts at random as in the code of the 2021 paper, but from a fixed draw (`random_cells`). All of this
    is our reading: the authors' code has an LSTM for each layer, joins self-messages in each, and starts from zeros.

    Example:
      >>> model = VSML(num_classes=10)
      >>> logits_LC, params = model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32))
      >>> logits_LC.shape
      (20, 10)
      >>> sum(leaf.size for leaf in jax.tree.leaves(params)), model.state_size(64, 20)
      (2512, 21072)
    """

    width: int = setting(16, "H, size of the LSTM of each pair", minimum=1)
    message_size: int = setting(8, "M, size of a message", minimum=1)
    micro_ticks: int = setting(2, "LSTM steps for each example", minimum=1)
    hidden: tuple[int, ...] = setting((), "sizes of hidden layers", minimum=1)
    layout: str = layout_setting()
    label_scale: float = label_scale_setting()
    remat: bool = setting(True, REMAT_EXAMPLES, free=True)
    dtype: str = dtype_setting()

    @classmethod
    def check(cls, config: Any) -> None:
        model = config.model
        if model.hidden and model.layout == PAIRED and model.message_size < 2:
            raise UserError(
                f"model.message_size = {model.message_size} is too small for the two numbers of an input of model.layout = "
                f"{PAIRED!r} with model.hidden; give 2 or more"
            )

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        lstm = SharedLSTM(self.width, self.message_size, self.micro_ticks, self.dtype, name="lstm")
        sizes = x_LX.shape[1], *self.hidden, self.num_classes
        messages = [jnp.zeros((size, self.message_size)) for size in sizes]
        if self.hidden:
            cells = [random_cells(self.width, *grid, seed) for seed, grid in enumerate(itertools.pairwise(sizes))]
            step, carry = deep_step, (cells, messages[1:-1])
        else:
            g_XM, f_CM = messages
            step, carry = grid_step, (resting_cells(self.width, *sizes), f_CM, g_XM)

        def logits_step(lstm: SharedLSTM, carry: Any, row: Any) -> tuple[Any, jax.Array]:
            carry, f_CM = step(lstm, carry, row)
            return carry, f_CM[:, 0]

        x_LXE = rearrange(images_of(x_LX, self.layout), "L (E X) -> L X E", X=x_LX.shape[1])
        rows = x_LXE, labels_before(y_L, self.num_classes, self.label_scale)[:, :, None]
        return over_time(logits_step, lstm, carry, rows, remat=self.remat)

    def state_size(self, num_features: int, length: int) -> int:
        """Returns the sizes of the states of all pairs and of the messages to the next example."""
        pairs = itertools.pairwise((num_features, *self.hidden, self.num_classes))
        cells = sum(2 * self.width * num_inputs * num_outputs for num_inputs, num_outputs in pairs)
        return cells + self.message_size * (sum(self.hidden) or num_features + self.num_classes)


@register("vsml_without_symmetries")
class VSMLWithoutSymmetries(SequenceModel):
    """A k × k grid of pairs that share one LSTM: row i sees x_0 … x_i and y_0 … y_{i−1}.

    Sizes of state and parameters do not depend on X and C. Permuting inputs or labels makes another problem. With
    `SharedLSTM`'s messages f_b, g_a of the previous example (zeros at first, as are h and c):

      u_a = [g_a, Linear_a(x_t)],  v_b = [f_b, Linear_b(onehot y_{t−1})],  (h, c, f, g) ← SharedLSTM
      logits = Linear([f_1, …, f_k])

    as in the authors' code, where k is 8 and the LSTM's width 16. The paper's width is 64. With the layout `paired` x_t is
    [x_t, x_{t−1}].

    Example:
      >>> model = VSMLWithoutSymmetries(num_classes=10, grid_size=2)
      >>> logits_LC, params = model.init_with_output(jax.random.key(0), jnp.zeros((20, 64)), jnp.zeros(20, jnp.int32))
      >>> logits_LC.shape
      (20, 10)
    """

    grid_size: int = setting(8, "k, side of the grid of k × k LSTMs", minimum=1)
    width: int = setting(64, "H, size of the LSTM of each pair", minimum=1)
    feature_message_size: int = setting(16, "size of the message from x to each input of the grid", minimum=1)
    label_message_size: int = setting(4, "size of the message from the label to each output of the grid", minimum=1)
    message_size: int = setting(8, "M, size of a message", minimum=1)
    micro_ticks: int = setting(2, "LSTM steps for each example", minimum=1)
    layout: str = layout_setting()
    label_scale: float = label_scale_setting()
    remat: bool = setting(True, REMAT_EXAMPLES, free=True)
    dtype: str = dtype_setting()

    @nn.compact
    def __call__(self, x_LX: jax.Array, y_L: jax.Array) -> jax.Array:
        length, size = len(y_L), self.grid_size

        def spread(rows_LN: jax.Array, message_size: int, name: str) -> jax.Array:
            dense = nn.Dense(size * message_size, kernel_init=fan_in_normal, dtype=self.dtype, name=name)
            return dense(rows_LN).astype(jnp.float32).reshape(length, size, message_size)

        before_LC = labels_before(y_L, self.num_classes, self.label_scale)
        x_LT = images_of(x_LX, self.layout)
        rows = spread(x_LT, self.feature_message_size, "features"), spread(before_LC, self.label_message_size, "labels")
        lstm = SharedLSTM(self.width, self.message_size, self.micro_ticks, self.dtype, name="lstm")
        zeros_KM = jnp.zeros((size, self.message_size))
        carry = resting_cells(self.width, size, size), zeros_KM, zeros_KM
        f_LKM = over_time(grid_step, lstm, carry, rows, remat=self.remat)
        return nn.Dense(self.num_classes, kernel_init=fan_in_normal, name="head")(f_LKM.reshape(length, -1))

    def state_size(self, num_features: int, length: int) -> int:
        """Returns the sizes of the states of all pairs and of the messages to the next example."""
        return 2 * self.width * self.grid_size**2 + 2 * self.grid_size * self.message_size
