"""The LSTM against its equations in NumPy, and against PyTorch's. The helpers serve the other recurrent models too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.models.recurrent import LSTM, scan_in_segments
from gpicl_jax.training.step import num_params

CLASSES, FEATURES, LENGTH = 5, 6, 9


def episode(length=LENGTH):
    x_LX = jax.random.normal(jax.random.key(0), (length, FEATURES))
    return x_LX, jax.random.randint(jax.random.key(1), (length,), 0, CLASSES)


@functools.cache
def initial_params(model):
    return jax.jit(model.init)(jax.random.key(2), *episode())["params"]


def random_params(model):
    """Every parameter is random, so that each one of them, biases and scalars too, shows in the logits."""
    leaves, tree = jax.tree.flatten(initial_params(model))
    rng = np.random.default_rng(3)
    return tree.unflatten([jnp.asarray(0.6 * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves])


def apply(model, params, x_LX, y_L):
    return jax.jit(model.apply)({"params": params}, x_LX, y_L)


def float64(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def linear(inside, rows):
    return rows @ inside["kernel"] + inside["bias"]


def numpy_tokens(x_LX, y_L, label_scale):
    tokens = []
    for i, x in enumerate(np.asarray(x_LX, np.float64)):
        label = np.zeros(CLASSES)
        if i > 0:
            label[y_L[i - 1]] = label_scale
        tokens.append(np.concatenate([x, label]))
    return tokens


def numpy_encoder(params, token):
    return np.maximum(linear(params["linear_1"], np.maximum(linear(params["linear_0"], token), 0)), 0)


def numpy_lstm(params, inputs):
    size = params["gates"]["bias"].size // 4
    h, c, rows = np.zeros(size), np.zeros(size), []
    for x in inputs:
        i, f, g, o = linear(params["gates"], np.concatenate([x, h])).reshape(4, size)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        rows.append(h)
    return np.array(rows)


def check_bfloat16_is_near(model):
    params = initial_params(model)
    full_LC, half_LC = (apply(each, params, *episode()) for each in (model, model.clone(dtype=jnp.bfloat16)))
    assert half_LC.dtype == jnp.float32
    distance = abs(half_LC - full_LC).max() / full_LC.std()
    assert 1e-5 < distance < 0.1


def check_first_gradient(model):
    """From the first parameters, over a whole episode: finite, and every parameter has one."""
    x_LX, y_L = episode(100)

    def loss(params):
        return -jax.nn.log_softmax(model.apply({"params": params}, x_LX, y_L))[jnp.arange(100), y_L].mean()

    for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(initial_params(model))):
        assert jnp.isfinite(leaf).all() and abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_equals_the_equations():
    model = LSTM(num_classes=CLASSES, width=7, label_scale=2.0)
    x_LX, y_L = episode()
    params = random_params(model)
    exact = float64(params)
    hidden = [numpy_encoder(exact["encoder"], token) for token in numpy_tokens(x_LX, y_L, 2.0)]
    expected = linear(exact["head"], numpy_lstm(exact["lstm"], hidden))
    np.testing.assert_allclose(apply(model, params, x_LX, y_L), expected, atol=2e-5)


def test_equals_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is for this comparison only")
    width = 16
    model = LSTM(num_classes=CLASSES, width=width)
    x_LX, y_L = episode(100)
    params = random_params(model)
    other = torch.nn.LSTM(width, width)
    head = torch.nn.Linear(width, CLASSES)
    encoder = [torch.nn.Linear(FEATURES + CLASSES, width), torch.nn.Linear(width, width)]

    def tensor(array):
        return torch.tensor(np.array(array))

    kernel, bias = params["lstm"]["gates"]["kernel"], params["lstm"]["gates"]["bias"]
    forget = slice(width, 2 * width)  # PyTorch's order is i, f, g, o too
    with torch.no_grad():
        for layer, inside in zip([*encoder, head], [*params["encoder"].values(), params["head"]], strict=True):
            layer.weight.copy_(tensor(inside["kernel"].T))
            layer.bias.copy_(tensor(inside["bias"]))
        other.weight_ih_l0.copy_(tensor(kernel[:width].T))
        other.weight_hh_l0.copy_(tensor(kernel[width:].T))
        other.bias_ih_l0.copy_(tensor(bias.at[forget].add(1)))
        other.bias_hh_l0.zero_()
        rows = tensor(np.array(numpy_tokens(x_LX, y_L, 1.0), np.float32))
        for layer in encoder:
            rows = torch.relu(layer(rows))
        expected = head(other(rows)[0]).numpy()
    np.testing.assert_allclose(apply(model, params, x_LX, y_L), expected, atol=1e-5)


def test_number_of_parameters_size_of_the_state_and_first_values():
    model = LSTM(num_classes=CLASSES)
    params, tokens, width = initial_params(model), FEATURES + CLASSES, 256
    encoder = (tokens + 1) * width + (width + 1) * width
    assert num_params(params) == encoder + (2 * width + 1) * 4 * width + (width + 1) * CLASSES
    assert model.state_size(FEATURES, LENGTH) == 2 * width
    kernel = params["lstm"]["gates"]["kernel"]  # its fan-in is the input and the state together
    np.testing.assert_allclose(kernel.std(), 0.8796 / np.sqrt(2 * width), rtol=0.02)
    assert not params["lstm"]["gates"]["bias"].any()  # the forget gate's 1 is in the equation


@pytest.mark.parametrize("check", [check_bfloat16_is_near, check_first_gradient])
def test_lstm(check):
    check(LSTM(num_classes=CLASSES, width=16))


@pytest.mark.parametrize("platform", ["cpu", "default"])
@pytest.mark.parametrize("length", [3, 10, 12])
def test_a_scan_in_segments_equals_a_scan_with_its_gradient_and_keeps_fewer_states(platform, length, monkeypatch):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *given, **branches: branches[platform](*given))
    kernel_HH, rows_LH = jax.random.normal(jax.random.key(0), (17, 17)), jax.random.normal(jax.random.key(1), (length, 17))

    def loss(scan, kernel_HH, rows_LH):
        def step(h_H, row_H):
            h_H = jnp.tanh(kernel_HH @ h_H + row_H)
            return h_H, 2 * h_H

        return (scan(step, jnp.zeros(17), rows_LH) ** 2).sum()

    plain = functools.partial(loss, lambda *given: jax.lax.scan(*given)[1])
    ours = functools.partial(loss, scan_in_segments)
    for expected, found in zip(
        *(jax.tree.leaves(jax.value_and_grad(each, argnums=(0, 1))(kernel_HH, rows_LH)) for each in (plain, ours)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    gradient = str(jax.make_jaxpr(jax.grad(ours))(kernel_HH, rows_LH))
    assert (f"f32[{length},1,17]" in gradient) == (platform == "cpu")
    assert (f"f32[{length // 5},5,17]" in gradient) == (platform == "default")
