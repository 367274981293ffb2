"""The paper's Transformer in plain PyTorch: the same parameters as `models.Transformer`, under the same names."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flax.traverse_util import flatten_dict
from torch import nn
from torch.nn import functional

from gpicl_jax.bench.measure import Side
from gpicl_jax.bench.pytorch import device_of_torch, training_side
from gpicl_jax.bench.pytorch.tasks import Batch, tokens
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Episode


class Attention(nn.Module):
    """Causal multi-head attention."""

    def __init__(self, width: int, num_heads: int, head_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(width, num_heads * head_size) for _ in range(3))
        self.out = nn.Linear(num_heads * head_size, width)

    def forward(self, h_BLD: torch.Tensor) -> torch.Tensor:
        heads = [each(h_BLD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)]
        mixed_BHLE = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.out(mixed_BHLE.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """LayerNorm, attention and residual, then LayerNorm, MLP and residual."""

    def __init__(self, width: int, num_heads: int, head_size: int, mlp_width: int, activation: str) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, head_size)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.activation = nn.GELU(approximate="tanh") if activation == "gelu" else nn.ReLU()

    def forward(self, h_BLD: torch.Tensor) -> torch.Tensor:
        h_BLD = h_BLD + self.attention(self.norm_attention(h_BLD))
        return h_BLD + self.mlp_out(self.activation(self.mlp_in(self.norm_mlp(h_BLD))))


class Transformer(nn.Module):
    """The paper's Transformer, from tokens [B, L, X + C] to logits [B, L, C].

    Raises:
      UserError: this Transformer does not support a setting of `config`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        check(config)
        model, num_classes = config.model, config.tasks.classes_per_task
        self.embed = nn.Linear(config.data.num_features + num_classes, model.width)
        self.positions = nn.Parameter(0.1 * torch.randn(config.tasks.length, model.width))
        sizes = model.width, model.num_heads, model.head_size, model.mlp_width or 4 * model.width
        self.blocks = [Block(*sizes, model.activation) for _ in range(model.num_layers)]
        for layer, block in enumerate(self.blocks):
            self.add_module(f"block_{layer}", block)
        self.norm_out, self.head = nn.LayerNorm(model.width), nn.Linear(model.width, num_classes)

    def forward(self, tokens_BLT: torch.Tensor) -> torch.Tensor:
        h_BLD = self.embed(tokens_BLT) + self.positions[: tokens_BLT.shape[1]]
        for block in self.blocks:
            h_BLD = block(h_BLD)
        return self.head(self.norm_out(h_BLD))


def check(config: Config) -> None:
    """Raises `UserError` where this Transformer does not support a setting of `config`."""
    paper = {"layout": "shifted", "smear_keys": False, "positions": "learned", "dtype": "float32", "remat": False}
    given, paper = (
        vars(config.model) | {"learner": config.learner.name},
        paper | {"name": "transformer", "learner": "in_context"},
    )
    if not paper.items() <= given.items():
        raise UserError(
            "the PyTorch side is the paper's Transformer in float32, and recomputes nothing; leave learner.name, model.name, "
            "model.layout, smear_keys, positions, dtype and remat as they are, or leave out --pytorch"
        )


def transplant(module: nn.Module, params: Any) -> None:
    """Copies the Flax parameters of the same names into `module`. Kernels are transposed, and those of convolutions folded.

    Raises:
      RuntimeError: a parameter is missing, left over or of another shape.
    """
    state, wanted = {}, module.state_dict()
    for name, leaf in flatten_dict(params, sep=".").items():
        value = torch.tensor(np.asarray(leaf))
        if name.endswith(".kernel"):
            value = value.T.contiguous()
        name = re.sub("(kernel|scale)$", "weight", name)
        if name in wanted and wanted[name].ndim == 4:
            outputs, channels, height, width = wanted[name].shape
            value = value.reshape(outputs, height, width, channels).permute(0, 3, 1, 2)
        state[name] = value
    module.load_state_dict(state)


def add_gradient(module: nn.Module, batch: Batch) -> torch.Tensor:
    """Adds the gradient of the loss, a mean over all rows, to the parameters' `grad`. Returns the loss."""
    tokens_BLT, y_BL = batch
    loss = functional.cross_entropy(module(tokens_BLT).flatten(0, 1), y_BL.flatten())
    loss.backward()
    return loss.detach()


def transformer_side(config: Config, draw: Callable[[], Batch]) -> Side:
    """Returns a side that takes training steps, each on a batch that it draws."""
    module = Transformer(config).to(device_of_torch())
    return training_side(config, module, lambda: add_gradient(module, draw()))


def prediction_side(config: Config, params: Any, episodes_B: Episode) -> Side:
    """Returns a side that computes the logits [B, L, C] of given episodes with given Flax parameters."""
    device, module = device_of_torch(), Transformer(config)
    transplant(module, params)
    module = module.to(device)
    x_BLX, y_BL = (torch.tensor(np.asarray(leaf)).to(device) for leaf in (episodes_B.x_LX, episodes_B.y_L))

    @torch.inference_mode()
    def run() -> np.ndarray:
        given = tokens(x_BLX, y_BL.long(), config.tasks.classes_per_task, config.model.label_scale)
        return module(given).cpu().numpy()

    return Side(run, len(y_BL))
