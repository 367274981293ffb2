"""VSML against its equations, pair by pair in NumPy, and what its symmetries promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.models.vsml import VSML, VSMLWithoutSymmetries, random_cells
from gpicl_jax.training.step import num_params

X, C, L, H, M = 5, 3, 10, 4, 2
SMALL = {"num_classes": C, "width": H, "message_size": M}
MODELS = {
    "one layer": VSML(**SMALL),
    "hidden layer": VSML(**SMALL, hidden=(3,)),
    "without symmetries": VSMLWithoutSymmetries(**SMALL, grid_size=3, feature_message_size=4, label_message_size=3),
}
each_model = pytest.mark.parametrize("name", MODELS)


def episode():
    return jax.random.normal(jax.random.key(0), (L, X)), jax.random.randint(jax.random.key(1), (L,), 0, C)


def random_params(model):
    """Every leaf random, the biases too."""
    leaves, tree = jax.tree.flatten(jax.jit(model.init)(jax.random.key(2), *episode()))
    keys = jax.random.split(jax.random.key(3), len(leaves))
    return tree.unflatten([0.7 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])


def loss_and_gradient(model, x_LX, y_L):
    def loss(params):
        log_p_LC = jax.nn.log_softmax(model.apply(params, x_LX, y_L))
        return -jnp.take_along_axis(log_p_LC, y_L[:, None], axis=1).mean()

    return jax.jit(jax.value_and_grad(loss))


def as_numpy(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def dense(params, row):
    return row @ params["kernel"] + params["bias"]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def numpy_grid(params, cells, u, v, ticks):
    """One example: moves `cells[a, b]`, pairs of h and c, in place; returns messages f_b and g_a."""
    for (a, b), (h, c) in cells.items():
        for _ in range(ticks):
            i, g, f, o = np.split(dense(params, np.concatenate([u[a], v[b], h])), 4)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        cells[a, b] = h, c
    forward = [np.mean([dense(params["forward"], cells[a, b][0]) for a in range(len(u))], axis=0) for b in range(len(v))]
    backward = [np.mean([dense(params["backward"], cells[a, b][0]) for b in range(len(v))], axis=0) for a in range(len(u))]
    return forward, backward


def numpy_labels_before(y_L, label_scale):
    return [np.zeros(C)] + [label_scale * np.eye(C)[y] for y in y_L[:-1]]


def numpy_cells(num_inputs, num_outputs):
    return {(a, b): (np.zeros(H), np.zeros(H)) for a in range(num_inputs) for b in range(num_outputs)}


def join(messages, scalars):
    return [np.append(message, scalar) for message, scalar in zip(messages, scalars, strict=True)]


@pytest.mark.parametrize("ticks", [1, 3])
def test_one_layer_equals_the_equations(ticks):
    model = VSML(**SMALL, micro_ticks=ticks, label_scale=1.7)
    (x_LX, y_L), params = episode(), random_params(model)
    lstm, cells = as_numpy(params["params"]["lstm"]), numpy_cells(X, C)
    forward, backward, expected = np.zeros((C, M)), np.zeros((X, M)), []
    for x, label in zip(np.asarray(x_LX, np.float64), numpy_labels_before(y_L, 1.7), strict=True):
        forward, backward = numpy_grid(lstm, cells, join(backward, x), join(forward, label), ticks)
        expected.append([message[0] for message in forward])
    np.testing.assert_allclose(jax.jit(model.apply)(params, x_LX, y_L), expected, atol=1e-5)


def test_hidden_layers_equal_the_equations():
    model = VSML(**SMALL, hidden=(3, 4))
    (x_LX, y_L), params = episode(), random_params(model)
    lstm, sizes = as_numpy(params["params"]["lstm"]), (X, 3, 4, C)
    layers = []
    for layer in range(3):
        h_HBA, c_HBA = as_numpy(random_cells(H, sizes[layer], sizes[layer + 1], layer))
        cells = numpy_cells(sizes[layer], sizes[layer + 1])
        layers.append({(a, b): (h_HBA[:, b, a], c_HBA[:, b, a]) for a, b in cells})
    pad = np.zeros(M - 1)
    backward, expected = [np.zeros((size, M)) for size in sizes[:3]], []
    for x, label in zip(np.asarray(x_LX, np.float64), numpy_labels_before(y_L, 1.0), strict=True):
        forward = [np.append(scalar, pad) for scalar in x]
        behind = [*backward[1:], [np.append(scalar, pad) for scalar in label]]
        for layer, cells in enumerate(layers):
            forward, backward[layer] = numpy_grid(lstm, cells, forward, behind[layer], 2)
        expected.append([message[0] for message in forward])
    np.testing.assert_allclose(jax.jit(model.apply)(params, x_LX, y_L), expected, atol=1e-5)


def test_the_one_without_symmetries_equals_the_equations():
    model = MODELS["without symmetries"]
    (x_LX, y_L), params = episode(), random_params(model)
    inside, cells = as_numpy(params["params"]), numpy_cells(3, 3)
    forward, backward, expected = np.zeros((3, M)), np.zeros((3, M)), []
    for x, label in zip(np.asarray(x_LX, np.float64), numpy_labels_before(y_L, 1.0), strict=True):
        features, labels = np.split(dense(inside["features"], x), 3), np.split(dense(inside["labels"], label), 3)
        forward, backward = numpy_grid(inside["lstm"], cells, join(backward, features), join(forward, labels), 2)
        expected.append(dense(inside["head"], np.concatenate(forward)))
    np.testing.assert_allclose(jax.jit(model.apply)(params, x_LX, y_L), expected, atol=1e-5)


@each_model
def test_only_the_one_layer_grid_is_blind_to_the_order_of_inputs_and_of_labels(name):
    model, (x_LX, y_L) = MODELS[name], episode()
    params = random_params(model)
    apply, order_C = jax.jit(functools.partial(model.apply, params)), np.array([1, 2, 0])
    logits_LC = apply(x_LX, y_L)
    of_other_inputs_LC = apply(x_LX[:, np.random.default_rng(4).permutation(X)], y_L)
    of_other_labels_LC = apply(x_LX, order_C[y_L])[:, order_C]
    if name == "one layer":
        np.testing.assert_allclose(of_other_inputs_LC, logits_LC, atol=1e-5)
        np.testing.assert_allclose(of_other_labels_LC, logits_LC, atol=1e-5)
    else:
        assert abs(of_other_inputs_LC - logits_LC).max() > 1e-4
        assert abs(of_other_labels_LC - logits_LC).max() > 1e-4


@each_model
def test_with_remat_the_gradient_is_the_same_and_finite_and_takes_less_memory(name):
    (x_LX, y_L), params = episode(), random_params(MODELS[name])
    found = {}
    for remat in (False, True):
        compiled = loss_and_gradient(MODELS[name].clone(remat=remat), x_LX, y_L).lower(params).compile()
        found[remat] = compiled(params), compiled.memory_analysis().temp_size_in_bytes
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), found[True][0], found[False][0])
    assert all(jnp.isfinite(leaf).all() and (leaf != 0).any() for leaf in jax.tree.leaves(found[True][0]))
    assert found[True][1] < 0.7 * found[False][1]


@each_model
def test_in_bfloat16_logits_and_gradient_are_near_those_in_float32(name):
    (x_LX, y_L), params = episode(), random_params(MODELS[name])
    half = MODELS[name].clone(dtype=jnp.bfloat16)
    logits_LC, half_LC = (jax.jit(model.apply)(params, x_LX, y_L) for model in (MODELS[name], half))
    assert half_LC.dtype == jnp.float32 and 1e-5 < abs(half_LC - logits_LC).max() < 0.05
    whole, rounded = (loss_and_gradient(model, x_LX, y_L)(params)[1] for model in (MODELS[name], half))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=0.03), rounded, whole)


def test_numbers_of_state_and_of_parameters():
    x_LX, y_L = jnp.zeros((2, 196)), jnp.zeros(2, jnp.int32)

    def sizes(model):
        return model.state_size(196, 100), num_params(jax.eval_shape(model.init, jax.random.key(0), x_LX, y_L))

    def lstm(inputs, width=16):
        return 4 * width * (inputs + width) + 4 * width + 2 * (8 * width + 8)

    assert sizes(VSML(num_classes=10)) == (62_720 + 8 * (196 + 10), 2512) and lstm(18) == 2512
    deep = 32 * (196 * 20 + 20 * 30 + 30 * 10) + 8 * (20 + 30), lstm(16)
    assert sizes(VSML(num_classes=10, hidden=(20, 30))) == deep
    linear = 197 * 8 * 16 + 11 * 8 * 4 + (8 * 8 + 1) * 10
    grid = 2 * 64 * 8 * 8 + 2 * 8 * 8, linear + lstm(8 + 16 + 8 + 4, width=64)
    assert sizes(VSMLWithoutSymmetries(num_classes=10)) == grid


def test_initial_values_follow_the_authors():
    params = jax.jit(VSML(num_classes=C).init)(jax.random.key(0), *episode())["params"]["lstm"]
    # Haiku's linear default, with the inputs and the hidden state as one row of 18 + 16
    np.testing.assert_allclose(params["kernel"].std(), 0.8796 / np.sqrt(34), rtol=0.05)
    assert abs(params["kernel"]).max() <= 2 / np.sqrt(34) * 1.0001 and not params["bias"].any()


def test_paired_inputs_add_the_image_before_and_nothing_else():
    """With no weight on x_{t−1} it is the model of x_t alone. With a weight it uses it, and permuted inputs change nothing."""
    x_LX, y_L = jax.random.normal(jax.random.key(0), (L, X)), jnp.arange(L) % C
    paired, shifted = VSML(**SMALL, layout="paired"), VSML(**SMALL)
    params = paired.init(jax.random.key(1), x_LX, y_L)["params"]
    kernel = params["lstm"]["kernel"]  # rows: M messages, x_t, x_{t−1}, …
    without = params | {"lstm": params["lstm"] | {"kernel": jnp.delete(kernel, M + 1, axis=0)}}
    silent = params | {"lstm": params["lstm"] | {"kernel": kernel.at[M + 1].set(0)}}
    expected = shifted.apply({"params": without}, x_LX, y_L)
    np.testing.assert_allclose(paired.apply({"params": silent}, x_LX, y_L), expected, atol=1e-6)
    logits_LC = paired.apply({"params": params}, x_LX, y_L)
    assert abs(logits_LC - expected).max() > 1e-4
    order_X = jnp.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(paired.apply({"params": params}, x_LX[:, order_X], y_L), logits_LC, atol=1e-6)
    np.testing.assert_allclose(logits_LC[0], expected[0], atol=1e-6)  # x_{−1} is zeros
