"""The Transformer against its equations, written out in NumPy for one episode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.models.transformer import Block, Transformer
from gpicl_jax.training.step import num_params


def numpy_transformer(params, x_LX, y_L, *, layout, num_heads, label_scale):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def dense(name, rows, inside):
        return rows @ inside[name]["kernel"] + inside[name]["bias"]

    def norm(name, rows, inside):
        centred = rows - rows.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * inside[name]["scale"] + inside[name]["bias"]

    length = len(y_L)
    tokens = []
    for i in range(length):
        label = np.zeros(10)
        if i > 0:
            label[y_L[i - 1]] = label_scale
        before = x_LX[i - 1] if i > 0 else np.zeros_like(x_LX[0])
        tokens.append(np.concatenate([x_LX[i], label] if layout == "shifted" else [x_LX[i], before, label]))
    h = dense("embed", np.array(tokens), params) + params["positions"][:length]
    for layer in range(sum(name.startswith("block") for name in params)):
        block = params[f"block_{layer}"]
        attention, normed = block["attention"], norm("norm_attention", h, block)
        query, key, value = (dense(name, normed, attention) for name in ("query", "key", "value"))
        size = query.shape[1] // num_heads
        mixed = np.zeros_like(value)
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            own = 1 / (1 + np.exp(-attention["smear"][head])) if "smear" in attention else 1.0
            for i in range(length):
                keys = [own * key[j, part] + (1 - own) * key[max(j - 1, 0), part] for j in range(i + 1)]
                scores = np.array([query[i, part] @ each for each in keys]) / np.sqrt(size)
                weights = np.exp(scores) / np.exp(scores).sum()
                mixed[i, part] = weights @ value[: i + 1, part]
        h = h + dense("out", mixed, attention)
        hidden = np.maximum(dense("mlp_in", norm("norm_mlp", h, block), block), 0)
        h = h + dense("mlp_out", hidden, block)
    return dense("head", norm("norm_out", h, params), params)


@pytest.mark.parametrize("layout", ["shifted", "paired"])
@pytest.mark.parametrize("smear_keys", [False, True])
def test_equals_the_equations(layout, smear_keys):
    sizes = {"width": 12, "num_layers": 2, "num_heads": 3, "head_size": 5, "activation": "relu", "max_length": 9}
    model = Transformer(num_classes=10, **sizes, layout=layout, smear_keys=smear_keys, label_scale=2.0)
    x_LX = jax.random.normal(jax.random.key(0), (7, 6))
    y_L = jax.random.randint(jax.random.key(1), (7,), 0, 10)
    params = jax.jit(model.init)(jax.random.key(2), x_LX, y_L)["params"]
    if smear_keys:
        for layer in range(2):
            params[f"block_{layer}"]["attention"]["smear"] = jnp.array([-1.0, 0.3, 2.0])
    logits_LC = jax.jit(model.apply)({"params": params}, x_LX, y_L)
    expected = numpy_transformer(params, x_LX, y_L, layout=layout, num_heads=3, label_scale=2.0)
    np.testing.assert_allclose(logits_LC, expected, atol=2e-5)


def test_parameter_count_and_initial_values_follow_the_authors():
    model = Transformer(num_classes=10)  # the paper's: width 256, 4 layers, 8 heads of 32
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((100, 196)), jnp.zeros(100, jnp.int32))["params"]
    assert abs(num_params(params) - 3.24e6) < 0.005e6  # `Parameters` of the authors' defaults at 14×14
    np.testing.assert_allclose(params["block_0"]["mlp_in"]["kernel"].std(), np.sqrt(2 / 4 / 256), rtol=0.02)
    assert abs(params["positions"]).max() <= 0.2 and params["positions"].shape == (100, 256)
    # Haiku's linear default is a normal of std 1/√fan_in cut at two standard deviations
    assert abs(params["embed"]["kernel"]).max() <= 2 / np.sqrt(206) * 1.0001
    np.testing.assert_allclose(params["embed"]["kernel"].std(), 0.8796 / np.sqrt(206), rtol=0.02)


def test_an_episode_longer_than_the_positions_is_refused():
    model = Transformer(num_classes=10, width=8, num_layers=1, max_length=5)
    with pytest.raises(ValueError, match="6 examples; this Transformer has positions for 5"):
        model.init(jax.random.key(0), jnp.zeros((6, 4)), jnp.zeros(6, jnp.int32))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_block_equals_torchs_encoder_layer(activation):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    width, heads, length = 16, 4, 9
    block = Block(
        num_heads=heads,
        head_size=width // heads,
        mlp_width=4 * width,
        activation=activation,
        kernel_init=jax.nn.initializers.normal(0.3),
        dtype=jnp.float32,
    )
    h_LD = jax.random.normal(jax.random.key(0), (length, width))
    causal_LL = jnp.tri(length, dtype=bool)
    params = jax.jit(block.init)(jax.random.key(1), h_LD, causal_LL)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    # ours is the tanh form of GELU, as in the authors' code
    function = {"gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"), "relu": torch.relu}[activation]
    layer = torch.nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, function, batch_first=True, norm_first=True)
    ours = {path: torch.tensor(np.array(leaf)) for path, leaf in _flat(params)}
    theirs = {
        "self_attn.in_proj_weight": torch.cat([ours[f"attention/{name}/kernel"].T for name in ("query", "key", "value")]),
        "self_attn.in_proj_bias": torch.cat([ours[f"attention/{name}/bias"] for name in ("query", "key", "value")]),
        "self_attn.out_proj.weight": ours["attention/out/kernel"].T,
        "self_attn.out_proj.bias": ours["attention/out/bias"],
        "linear1.weight": ours["mlp_in/kernel"].T,
        "linear1.bias": ours["mlp_in/bias"],
        "linear2.weight": ours["mlp_out/kernel"].T,
        "linear2.bias": ours["mlp_out/bias"],
        "norm1.weight": ours["norm_attention/scale"],
        "norm1.bias": ours["norm_attention/bias"],
        "norm2.weight": ours["norm_mlp/scale"],
        "norm2.bias": ours["norm_mlp/bias"],
    }
    layer.load_state_dict(theirs)
    hidden = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
    with torch.no_grad():
        expected = layer.train()(torch.tensor(np.array(h_LD))[None], src_mask=hidden)[0]
    np.testing.assert_allclose(jax.jit(block.apply)({"params": params}, h_LD, causal_LL), expected.numpy(), atol=1e-5)


def _flat(params):
    return [("/".join(key.key for key in path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
