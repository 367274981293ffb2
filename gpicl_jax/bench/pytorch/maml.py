"""Finn's MAML in plain PyTorch: one problem after another, the inner steps by `torch.autograd.grad`."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from gpicl_jax.sections import Config
from gpicl_jax.tasks import Episode

Problem = tuple[torch.Tensor, torch.Tensor, int]  # x_LX, y_L, number of examples of the context


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


def meta_gradient(model: MLP, problems: Sequence[Problem], config: Config) -> float:
    """Adds the meta-gradient, a mean over the problems, to the parameters' `grad`; returns the mean loss of the queries."""
    settings, total = config.learner, 0.0
    for x_LX, y_L, num_context in problems:
        weights = dict(model.named_parameters())
        for _ in range(settings.inner_steps):
            loss = functional.cross_entropy(functional_call(model, weights, x_LX[:num_context]), y_L[:num_context])
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=not settings.first_order)
            weights = {
                name: weight - settings.inner_rate * slope
                for (name, weight), slope in zip(weights.items(), slopes, strict=True)
            }
        loss = functional.cross_entropy(functional_call(model, weights, x_LX[num_context:]), y_L[num_context:])
        (loss / len(problems)).backward()
        total += loss.item() / len(problems)
    return total


def make_problems(episodes_B: Episode, device: str) -> list[Problem]:
    """Episodes with leading axis [B] as a list of problems."""
    x_BLX, y_BL = (torch.tensor(np.asarray(leaf)).to(device) for leaf in (episodes_B.x_LX, episodes_B.y_L))
    return [(x, y.long(), int(cut)) for x, y, cut in zip(x_BLX, y_BL, episodes_B.num_context, strict=True)]
