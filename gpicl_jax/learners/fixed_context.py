"""Many queries of one context: its rows are read once where the model allows it, and few compiled programs serve all sizes."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.learners.base import Learner, OnePass, Params
from gpicl_jax.models.equivariant_transformer import EquivariantTransformer
from gpicl_jax.tasks.episode import Episode

_LEAST = 32  # rows and features of a program


def encodes(model: Any) -> bool:
    """Returns whether queries need the context's code alone, which is in no order. It and they are computed in float64."""
    return isinstance(model, EquivariantTransformer) and model.max_length is None


@functools.cache
def takes_any_classes(learner: OnePass) -> bool:
    """Returns whether no parameter depends on the number of classes."""
    few = learner.model.num_classes
    makers = [dataclasses.replace(learner, model=learner.model.clone(num_classes=number)).init for number in (few, few + 1)]
    shapes = [jax.tree.map(jnp.shape, jax.eval_shape(init, jax.random.key(0))) for init in makers]
    return shapes[0] == shapes[1]


def read_context(learner: OnePass, params: Params, x_NX: np.ndarray, y_N: np.ndarray) -> Any:
    """Returns what `answer_queries` needs of a context, as NumPy arrays: its code, or its rows and their number."""
    num_rows, model = len(y_N), learner.model
    rows = min(padded_size(num_rows), (model.max_length or np.inf) - 1)
    x_NX, y_N = _padded(model, x_NX, rows), np.pad(y_N.astype(np.int32), (0, rows - num_rows))
    if not encodes(model):
        return x_NX, y_N, np.int32(num_rows)
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _encode(_exact(model), jax.tree.map(np.float64, params), x_NX, y_N, num_rows))


def answer_queries(learner: OnePass, params: Params, context: Any, x_QX: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the logits of queries, float64 [Q, C], of which `batch_size` are computed at once."""
    model, logits = learner.model, []
    with jax.enable_x64(encodes(model)):
        params = jax.tree.map(np.float64, params) if encodes(model) else params
        for start in range(0, len(x_QX), batch_size):
            part_QX = x_QX[start : start + batch_size]
            padded_QX = _padded(model, part_QX, min(padded_size(len(part_QX)), batch_size))
            if encodes(model):
                logits_QC = _answer(_exact(model), params, context, padded_QX)
            else:
                logits_QC = _read_again(learner, params, *context, padded_QX)
            logits.append(np.asarray(logits_QC, np.float64)[: len(part_QX)])
    return np.concatenate(logits)


def padded_size(number: int) -> int:
    """Returns the next power of two, at least 32.

    Example:
      >>> [padded_size(number) for number in (5, 32, 33, 1000)]
      [32, 32, 64, 1024]
    """
    return max(_LEAST, 1 << (number - 1).bit_length())


def _padded(model: Any, x_QX: np.ndarray, num_rows: int) -> np.ndarray:
    """Returns inputs with zeros below, and beside them where the model takes any features."""
    num_features = padded_size(x_QX.shape[1]) if model.any_features else x_QX.shape[1]
    wide_QX = np.pad(x_QX, [(0, num_rows - len(x_QX)), (0, num_features - x_QX.shape[1])])
    return wide_QX.astype(np.float64 if encodes(model) else np.float32)


def _exact(model: EquivariantTransformer) -> EquivariantTransformer:
    return model.clone(dtype="float64", remat=False)


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: EquivariantTransformer, params: Params, x_NX: jax.Array, y_N: jax.Array, num_context: jax.Array) -> Any:
    return model.encode(params, x_NX, y_N, num_context)


@functools.partial(jax.jit, static_argnums=0)
def _answer(model: EquivariantTransformer, params: Params, context: Any, x_QX: jax.Array) -> jax.Array:
    return model.answer(params, context, x_QX)


@functools.partial(jax.jit, static_argnums=0)
def _read_again(
    learner: Learner, params: Params, x_NX: jax.Array, y_N: jax.Array, num_context: jax.Array, x_QX: jax.Array
) -> jax.Array:
    """Returns logits [Q, C] of queries that come after the context, all in one episode or each in its own."""
    together = len(x_QX) if learner.queries and learner.model.max_length is None else 1

    def of_episode(x_RX: jax.Array) -> jax.Array:
        x_LX = jax.lax.dynamic_update_slice(jnp.pad(x_NX, ((0, together), (0, 0))), x_RX, (num_context, 0))
        y_L = jnp.pad(y_N, (0, together))
        episode = Episode(x_LX, y_L, num_context if learner.queries else jnp.int32(len(y_L)))
        logits_LC = learner.predict(params, episode, key=jax.random.key(0))
        return jax.lax.dynamic_slice(logits_LC, (num_context, 0), (together, logits_LC.shape[1]))

    logits_BRC = jax.vmap(of_episode)(x_QX.reshape(-1, together, x_QX.shape[1]))
    return logits_BRC.reshape(len(x_QX), -1)
