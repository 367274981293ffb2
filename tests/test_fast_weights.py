"""The LSTM with fast weights against its equations, written out in NumPy one step at a time."""

import numpy as np
import pytest

from gpicl_jax.models.recurrent import FastWeights
from gpicl_jax.training.step import num_params
from tests import test_lstm as recurrent
from tests.test_lstm import CLASSES, FEATURES, LENGTH, linear, sigmoid


def numpy_fast_weights(params, tokens, size, bounded=False):
    memory, logits = np.zeros((size, size**2)), []
    for h in recurrent.numpy_lstm(params["lstm"], tokens):
        write = linear(params["memory"]["write"], h)
        k1, k2, v = np.tanh(write[:size]), np.tanh(write[size : 2 * size]), np.tanh(write[2 * size : 3 * size])
        key = np.outer(k1, k2).flatten()
        memory = memory + sigmoid(write[3 * size]) * np.outer(v - memory @ key, key)
        memory = memory / max(1, np.sqrt((memory**2).sum())) if bounded else memory
        r1, r2 = np.tanh(linear(params["memory"]["read"], h)).reshape(2, size)
        read = memory @ np.outer(r1, r2).flatten()
        normed = (read - read.mean()) / np.sqrt(read.var() + 1e-5) * params["norm"]["scale"]
        logits.append(linear(params["head"], h + linear(params["read_out"], normed)))
    return np.array(logits)


@pytest.mark.parametrize("bounded", [False, True])
def test_equals_the_equations(bounded):
    model = FastWeights(num_classes=CLASSES, width=7, memory_size=3, label_scale=2.0, bounded=bounded)
    x_LX, y_L = recurrent.episode()
    params = recurrent.random_params(model)
    params["memory"]["write"]["bias"] += 1  # larger keys take the norm above 1
    tokens = recurrent.numpy_tokens(x_LX, y_L, 2.0)
    expected, other = (numpy_fast_weights(recurrent.float64(params), tokens, 3, each) for each in (bounded, not bounded))
    np.testing.assert_allclose(recurrent.apply(model, params, x_LX, y_L), expected, atol=2e-5)
    assert abs(expected - other).max() > 1e-3  # the bound is met here


def test_number_of_parameters_and_size_of_the_state():
    model = FastWeights(num_classes=CLASSES)
    tokens, width, size = FEATURES + CLASSES, 64, 16
    memory = (width + 1) * (3 * size + 1) + (width + 1) * 2 * size + size + (size + 1) * width
    lstm = (tokens + width + 1) * 4 * width
    assert num_params(recurrent.initial_params(model)) == lstm + memory + (width + 1) * CLASSES
    assert model.state_size(FEATURES, LENGTH) == 2 * width + 16 * 256


@pytest.mark.parametrize(
    "check",
    [
        recurrent.check_bfloat16_is_near,
        recurrent.check_first_gradient,
    ],
)
def test_fast_weights(check):
    check(FastWeights(num_classes=CLASSES, width=16, memory_size=4))
