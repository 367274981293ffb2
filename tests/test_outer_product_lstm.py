"""The outer-product LSTM against its equations, written out in NumPy for one head and one step at a time."""

import numpy as np
import pytest

from gpicl_jax.models.recurrent import OuterProductLSTM
from gpicl_jax.training.step import num_params
from tests import test_lstm as recurrent
from tests.test_lstm import CLASSES, FEATURES, LENGTH, linear, sigmoid


def numpy_outer_product(params, inputs, num_heads, size):
    scale = np.log(1 + np.exp(params["key_scale"]))
    h, rows = np.zeros(num_heads * size), []
    cells = [np.zeros((size, size)) for _ in range(num_heads)]
    for x in inputs:
        z = linear(params["gates"], np.concatenate([x, h])).reshape(num_heads, 8 * size)
        new = []
        for head in range(num_heads):
            k1, k2, q, o = np.split(z[head], [3 * size, 6 * size, 7 * size])
            m_i, m_g, m_f = (
                scale * np.outer(np.tanh(k1[r * size : (r + 1) * size]), np.tanh(k2[r * size : (r + 1) * size]))
                for r in range(3)
            )
            cells[head] = sigmoid(m_f + 1) * cells[head] + sigmoid(m_i) * m_g
            read = np.array([sum(cells[head][i, j] * q[i] for i in range(size)) for j in range(size)])
            new.append(sigmoid(o) * np.tanh(read))
        h = np.concatenate(new)
        rows.append(h)
    return np.array(rows)


def test_equals_the_equations():
    model = OuterProductLSTM(num_classes=CLASSES, width=7, num_heads=2, head_size=4, label_scale=2.0)
    x_LX, y_L = recurrent.episode()
    params = recurrent.random_params(model)
    exact = recurrent.float64(params)
    hidden = [recurrent.numpy_encoder(exact["encoder"], token) for token in recurrent.numpy_tokens(x_LX, y_L, 2.0)]
    expected = linear(exact["head"], numpy_outer_product(exact["outer_product"], hidden, num_heads=2, size=4))
    np.testing.assert_allclose(recurrent.apply(model, params, x_LX, y_L), expected, atol=2e-5)


def test_number_of_parameters_and_size_of_the_state():
    model = OuterProductLSTM(num_classes=CLASSES, width=24, num_heads=3, head_size=8)
    params, tokens = recurrent.initial_params(model), FEATURES + CLASSES
    gates = (24 + 3 * 8 + 1) * 8 * 3 * 8
    assert num_params(params) == (tokens + 1) * 24 + (24 + 1) * 24 + gates + 1 + (3 * 8 + 1) * CLASSES
    assert model.state_size(FEATURES, LENGTH) == 3 * (8 * 8 + 8)
    assert params["outer_product"]["key_scale"] == 0


@pytest.mark.parametrize(
    "check",
    [
        recurrent.check_bfloat16_is_near,
        recurrent.check_first_gradient,
    ],
)
def test_outer_product_lstm(check):
    check(OuterProductLSTM(num_classes=CLASSES, width=16, num_heads=2, head_size=8))
