"""Meta-training in plain PyTorch: eager, one step after another."""

from collections.abc import Callable

import torch
from torch.nn import functional

from gpicl_jax.bench.pytorch.tasks import Batch
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError


def make_optimizer(config: Config, module: torch.nn.Module) -> torch.optim.Optimizer:
    """The same Adam as `factory.make_optimizer` makes.

    Raises:
      UserError: `[optimizer]` asks for another.
    """
    settings = config.optimizer
    plain = (settings.schedule, settings.warmup_steps, settings.eps_root, settings.clip) == ("constant", 0, 0.0, 0.0)
    if settings.name not in ("adam", "adamw") or not plain:
        raise UserError(
            "the PyTorch side has a plain Adam; leave optimizer.schedule, warmup_steps, eps_root and clip as they are, "
            "with optimizer.name = adam or adamw, or leave out --pytorch"
        )
    common = {"lr": settings.learning_rate, "betas": (settings.b1, settings.b2), "eps": settings.eps}
    if settings.name == "adam":
        return torch.optim.Adam(module.parameters(), **common)
    return torch.optim.AdamW(module.parameters(), **common, weight_decay=settings.weight_decay)


def train_step(module: torch.nn.Module, optimizer: torch.optim.Optimizer, draw: Callable[[], Batch]) -> torch.Tensor:
    """Draws a batch and takes one step; returns the loss, a mean over all rows."""
    tokens_BLT, y_BL = draw()
    loss = functional.cross_entropy(module(tokens_BLT).flatten(0, 1), y_BL.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
