"""Finn's MAML in plain PyTorch: one problem after another, the inner steps by `torch.autograd.grad`."""

from collections.abc import Sequence

import jax
import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from gpicl_jax.bench.measure import Side
from gpicl_jax.bench.program import Program
from gpicl_jax.bench.pytorch import device_of_torch, training_side
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Episode

Problem = tuple[torch.Tensor, torch.Tensor, list[slice | torch.Tensor], int]  # x_LX, y_L, rows of each step, of the context


class MLP(nn.Module):
    """The same network as `models.MLP`, under the same names."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, size = config.model, config.data.num_features
        self.layers = []
        for layer in range(model.num_layers):
            self.layers.append(nn.Linear(size, model.width))
            self.add_module(f"hidden_{layer}", self.layers[-1])
            size = model.width
        self.head = nn.Linear(size, config.tasks.classes_per_task)

    def forward(self, x_LX: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x_LX = functional.relu(layer(x_LX))
        return self.head(x_LX)


class StudyConv(nn.Module):
    """The same network as `StudyConv` of the study on Omniglot, under the same names. Its logits are (0, z)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.size, self.layers, channels = config.data.size, [], 1
        for layer, features in enumerate((6, 10, 12, 16)):
            self.layers.append(nn.Conv2d(channels, features, 5, padding=config.model.padding.lower()))
            self.add_module(f"conv_{layer}", self.layers[-1])
            channels = features
        with torch.no_grad():
            num_inputs = self.features(torch.zeros(1, self.size**2)).shape[1]
        self.hidden, self.head = nn.Linear(num_inputs, 10), nn.Linear(10, 1)

    def features(self, x_LX: torch.Tensor) -> torch.Tensor:
        h = x_LX.reshape(-1, 1, self.size, self.size)
        for layer in self.layers:
            h = functional.max_pool2d(functional.relu(layer(h)), 2)
        return h.flatten(1)

    def forward(self, x_LX: torch.Tensor) -> torch.Tensor:
        z_L1 = self.head(functional.relu(self.hidden(self.features(x_LX))))
        return torch.cat([torch.zeros_like(z_L1), z_L1], dim=1)


def make_model(config: Config) -> nn.Module:
    """Returns the network that `[model]` names.

    Raises:
      UserError: PyTorch's version has no such network.
    """
    models = {"mlp": MLP, "study_conv": StudyConv}
    if config.model.name not in models:
        raise UserError(f"the PyTorch side has no {config.model.name!r}; give model.name = {' or '.join(map(repr, models))}")
    return models[config.model.name](config)


def meta_gradient(model: nn.Module, problems: Sequence[Problem], config: Config) -> float:
    """Adds the meta-gradient, a mean over the problems, to the parameters' `grad`. Returns the mean loss of the queries."""
    settings, total = config.learner, 0.0
    squash, num_queries = (getattr(settings, name, 0) for name in ("squash", "num_queries"))  # of the study's learner
    for x_LX, y_L, rows_K, num_context in problems:
        weights = dict(model.named_parameters())
        for step in range(settings.inner_steps):
            rows = rows_K[step % len(rows_K)]
            loss = _loss(functional_call(model, weights, x_LX[rows]), y_L[rows], squash)
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=not settings.first_order)
            weights = {
                name: weight - settings.inner_rate * slope
                for (name, weight), slope in zip(weights.items(), slopes, strict=True)
            }
        queries = slice(num_context, num_context + num_queries if num_queries else None)
        loss = _loss(functional_call(model, weights, x_LX[queries]), y_L[queries], squash)
        (loss / len(problems)).backward()
        total += loss.item() / len(problems)
    return total


def _loss(logits_LC: torch.Tensor, y_L: torch.Tensor, squash: bool) -> torch.Tensor:
    if squash:
        squashed_L = torch.sigmoid(logits_LC[:, 1] - logits_LC[:, 0])
        logits_LC = torch.stack([torch.zeros_like(squashed_L), squashed_L], dim=1)
    return functional.cross_entropy(logits_LC, y_L)


def make_problems(program: Program, episodes_B: Episode, device: str) -> list[Problem]:
    """Returns episodes with leading axis [B] as a list of problems. Their inner steps see the rows that JAX's see."""
    x_BLX, y_BL = (torch.tensor(np.asarray(leaf)).to(device) for leaf in (episodes_B.x_LX, episodes_B.y_L))
    problems = zip(x_BLX, y_BL, map(int, episodes_B.num_context), strict=True)
    rows_K = None
    if program.config.learner.inner_batch:
        rows_K = list(torch.tensor(np.asarray(program.learner.batches(jax.random.key(0)))).to(device))
    return [(x, y.long(), rows_K or [slice(0, cut)], cut) for x, y, cut in problems]


def maml_side(program: Program, episodes_B: Episode) -> Side:
    """Returns a side that takes meta-steps on the given problems."""
    config, device = program.config, device_of_torch()
    model, problems = make_model(config).to(device), make_problems(program, episodes_B, device)
    return training_side(config, model, lambda: meta_gradient(model, problems, config))
