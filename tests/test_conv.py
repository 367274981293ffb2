"""Convolutional networks of few-shot problems: equal to PyTorch's, and batch statistics of the rows that are given alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.models.conv import FewShotConv, PatchConv, images


def given(length=6, side=28):
    return jax.random.normal(jax.random.key(0), (length, side * side))


def nudged(params):
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)


@pytest.mark.parametrize("side", [9, 14])
def test_the_product_of_patches_is_a_convolution(side):
    h_cLhw = jax.random.normal(jax.random.key(1), (2, 3, side, side))
    layer = PatchConv(4)
    params = jax.jit(layer.init)(jax.random.key(0), h_cLhw)["params"]
    kernel_hwio = params["kernel"].reshape(3, 3, 2, 4)
    expected = jax.lax.conv_general_dilated(h_cLhw, kernel_hwio, (2, 2), "SAME", dimension_numbers=("CNHW", "HWIO", "CNHW"))
    np.testing.assert_allclose(jax.jit(layer.apply)({"params": params}, h_cLhw), expected, atol=1e-5)


def test_the_first_weights_of_a_convolution_are_as_wide_as_its_patches_and_features_ask():
    params = jax.jit(FewShotConv(num_classes=5).init)(jax.random.key(0), given())["params"]
    for layer, channels in enumerate((1, 64)):
        widest = abs(params[f"conv_{layer}"]["kernel"]).max()
        bound = (6 / (9 * channels + 9 * 64)) ** 0.5
        assert 0.95 * bound < widest <= bound


def test_images_come_row_by_row_then_by_channel():
    assert images(jnp.arange(12.0)[None], 3)[:, 0, 0, 1].tolist() == [3.0, 4.0, 5.0]
    with pytest.raises(ValueError, match="no square images of 1 channels"):
        images(jnp.zeros((1, 12)), 1)


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


def test_only_rows_that_come_together_share_statistics():
    model, x_LX = FewShotConv(num_classes=5, width=8, num_layers=2), given(side=8)
    params, apply = jax.jit(model.init)(jax.random.key(0), x_LX), jax.jit(model.apply)
    together, apart = apply(params, x_LX), apply(params, x_LX[:3])
    assert abs(together[:3] - apart).max() > 0.01
    changed = x_LX.at[5].add(1.0)
    assert abs(apply(params, changed)[:3] - together[:3]).max() > 1e-4
