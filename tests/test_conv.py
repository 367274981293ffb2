"""Convolutional networks of few-shot problems: equal to PyTorch's, and batch statistics of the rows that are given alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.models.conv import FewShotConv, PatchConv, PooledConv, StudyConv, images, max_pool
from gpicl_jax.models.convolution import convolve


def given(length=6, side=28):
    return jax.random.normal(jax.random.key(0), (length, side * side))


def nudged(params):
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)


@pytest.mark.parametrize("side", [9, 14])
def test_the_product_of_patches_is_a_convolution(side):
    h_cLhw = jax.random.normal(jax.random.key(1), (2, 3, side, side))
    layer = PatchConv(4, kernel_size=3, stride=2)
    params = jax.jit(layer.init)(jax.random.key(0), h_cLhw)["params"]
    kernel_hwio = params["kernel"].reshape(3, 3, 2, 4)
    expected = jax.lax.conv_general_dilated(h_cLhw, kernel_hwio, (2, 2), "SAME", dimension_numbers=("CNHW", "HWIO", "CNHW"))
    np.testing.assert_allclose(jax.jit(layer.apply)({"params": params}, h_cLhw), expected, atol=1e-5)


def plain(h_Lhwc, kernel_rrco):
    return jax.lax.conv_general_dilated(h_Lhwc, kernel_rrco, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_convolution_has_the_derivatives_of_xlas_own(backend, monkeypatch):
    """First ones, and second ones as MAML takes them, of problems with kernels of their own; in turns, or grouped."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    jax.clear_caches()
    h_BLhwc = jax.random.normal(jax.random.key(1), (2, 3, 7, 6, 2))
    kernel_Brrco = jax.random.normal(jax.random.key(2), (2, 3, 3, 2, 4))

    def adapted(convolve, h_Lhwc, kernel_rrco):
        def loss(h_Lhwc, kernel_rrco):
            return jnp.tanh(convolve(h_Lhwc, kernel_rrco)).sum()

        slopes = jax.grad(loss, argnums=(0, 1))(h_Lhwc, kernel_rrco)
        return loss(h_Lhwc + 0.1 * slopes[0], kernel_rrco - 0.1 * slopes[1])

    for function in (lambda convolve, *given: jnp.tanh(convolve(*given)).sum(), adapted):
        ours, theirs = (
            jax.jit(jax.vmap(jax.grad(functools.partial(function, each), argnums=(0, 1))))(h_BLhwc, kernel_Brrco)
            for each in (convolve, plain)
        )
        for mine, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)
    program = str(jax.make_jaxpr(jax.vmap(convolve))(h_BLhwc, kernel_Brrco))
    assert ("feature_group_count=2" in program) == (backend == "gpu")


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_bias_and_relu_may_come_after_pooling(padding):
    h_Lhwc = jax.random.normal(jax.random.key(1), (3, 9, 9, 2))
    layer = PooledConv(4, kernel_size=5, padding=padding)
    params = jax.jit(layer.init)(jax.random.key(0), h_Lhwc)["params"]
    kernel_rrco, bias = params["kernel"].reshape(5, 5, 2, 4), params["bias"].reshape(1, 1, 1, 4) - 0.6
    axes = ("NHWC", "HWIO", "NHWC")
    convolved = jax.lax.conv_general_dilated(h_Lhwc, kernel_rrco, (1, 1), padding, dimension_numbers=axes)
    params = params | {"bias": bias.reshape(4)}
    expected = max_pool(jax.nn.relu(convolved + bias))
    assert 0.1 < (expected > 0).mean() < 0.9
    np.testing.assert_allclose(jax.jit(layer.apply)({"params": params}, h_Lhwc), expected, atol=1e-5)


def test_the_first_weights_of_a_convolution_are_as_wide_as_its_patches_and_features_ask():
    params = jax.jit(FewShotConv(num_classes=5).init)(jax.random.key(0), given())["params"]
    for layer, channels in enumerate((1, 64)):
        widest = abs(params[f"conv_{layer}"]["kernel"]).max()
        bound = (6 / (9 * channels + 9 * 64)) ** 0.5
        assert 0.95 * bound < widest <= bound


def test_an_odd_row_and_column_are_not_pooled():
    h_Lhwc = jnp.arange(15.0).reshape(1, 3, 5, 1)
    assert max_pool(h_Lhwc)[0, ..., 0].tolist() == [[6.0, 8.0]]


def test_images_come_row_by_row_then_by_channel():
    assert images(jnp.arange(12.0)[None], 3)[:, 0, 0, 1].tolist() == [3.0, 4.0, 5.0]
    with pytest.raises(ValueError, match="no square images of 1 channels"):
        images(jnp.zeros((1, 12)), 1)
    with pytest.raises(ValueError, match="an image of 4×6 is too small for a kernel of 5×5"):
        convolve(jnp.zeros((1, 4, 6, 1)), jnp.zeros((5, 5, 1, 1)))


def test_finns_network_equals_torchs():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    model, x_LX = FewShotConv(num_classes=5, width=8, num_layers=3), given(side=14)
    params = nudged(jax.jit(model.init)(jax.random.key(0), x_LX)["params"])
    to_torch = lambda leaf: torch.tensor(np.asarray(leaf))  # noqa: E731
    h = to_torch(x_LX).reshape(-1, 1, 14, 14)
    for layer in range(3):
        kernel = params[f"conv_{layer}"]["kernel"]
        kernel = to_torch(kernel.reshape(3, 3, -1, 8)).permute(3, 2, 0, 1)
        pad = 0 if h.shape[-1] % 2 == 0 else 1  # stride 2: the odd pixel goes to the end
        h = torch.nn.functional.conv2d(torch.nn.functional.pad(h, (pad, 1, pad, 1)), kernel, stride=2)
        bias = to_torch(params[f"batch_norm_{layer}"]["bias"])
        h = torch.nn.functional.batch_norm(h, None, None, None, bias, True, eps=1e-3).relu()
    expected = h.mean(dim=(2, 3)) @ to_torch(params["head"]["kernel"]) + to_torch(params["head"]["bias"])
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, x_LX), expected, atol=1e-4)


def test_the_studys_network_equals_torchs():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    model, x_LX = StudyConv(), given(length=3, side=105)
    params = nudged(jax.jit(model.init)(jax.random.key(0), x_LX)["params"])
    assert params["hidden"]["kernel"].shape == (64, 10)  # the study's flatten
    to_torch = lambda leaf: torch.tensor(np.asarray(leaf))  # noqa: E731
    h, channels = to_torch(x_LX).reshape(-1, 1, 105, 105), 1
    for layer, features in enumerate((6, 10, 12, 16)):
        kernel = to_torch(params[f"conv_{layer}"]["kernel"].reshape(5, 5, channels, features)).permute(3, 2, 0, 1)
        h = torch.nn.functional.conv2d(h, kernel, to_torch(params[f"conv_{layer}"]["bias"]))
        h, channels = torch.nn.functional.max_pool2d(h.relu(), 2), features
    hidden = (h.flatten(1) @ to_torch(params["hidden"]["kernel"]) + to_torch(params["hidden"]["bias"])).relu()
    z = hidden @ to_torch(params["head"]["kernel"]) + to_torch(params["head"]["bias"])
    logits_LC = jax.jit(model.apply)({"params": params}, x_LX)
    np.testing.assert_allclose(logits_LC[:, 1], z[:, 0], atol=1e-4)
    assert (logits_LC[:, 0] == 0).all()


@pytest.mark.parametrize(("side", "padding"), [(76, "VALID"), (28, "SAME")])
def test_the_smallest_images_of_the_studys_network(side, padding):
    model = StudyConv(padding=padding)
    assert jax.eval_shape(model.init, jax.random.key(0), given(2, side))["params"]["hidden"]["kernel"].shape == (16, 10)
    if padding == "VALID":
        with pytest.raises(ValueError, match="too small to be pooled"):
            model.init(jax.random.key(0), given(2, side - 1))


def test_only_rows_that_come_together_share_statistics():
    model, x_LX = FewShotConv(num_classes=5, width=8, num_layers=2), given(side=8)
    params, apply = jax.jit(model.init)(jax.random.key(0), x_LX), jax.jit(model.apply)
    together, apart = apply(params, x_LX), apply(params, x_LX[:3])
    assert abs(together[:3] - apart).max() > 0.01
    changed = x_LX.at[5].add(1.0)
    assert abs(apply(params, changed)[:3] - together[:3]).max() > 1e-4
