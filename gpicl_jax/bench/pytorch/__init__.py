"""The plain PyTorch versions that `gpicl bench --pytorch` times: eager mode, same networks and sizes. Imported only then."""

from collections.abc import Callable
from typing import Any

import jax
import torch

from gpicl_jax.bench.measure import Side, threads
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError


def device_of_torch() -> str:
    """Gives PyTorch as many threads as JAX has, and returns PyTorch's name of JAX's device.

    On a GPU both sides compute float32 products in TF32, which is JAX's default.

    Raises:
      UserError: JAX runs on a device that this PyTorch cannot use.
    """
    torch.set_num_threads(threads())
    backend = jax.default_backend()
    if backend == "cpu":
        return "cpu"
    if backend != "gpu" or not torch.cuda.is_available():
        raise UserError(
            f"JAX runs on a {backend}, this PyTorch does not; install one that does, or compare on the CPU: JAX_PLATFORMS=cpu"
        )
    torch.set_float32_matmul_precision("high")
    return "cuda"


def wait() -> None:
    """Waits until the device has done all its work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def make_optimizer(config: Config, module: torch.nn.Module) -> torch.optim.Optimizer:
    """Returns the same Adam as `build.make_optimizer`.

    Raises:
      UserError: `[optimizer]` describes another optimiser.
    """
    settings, plain = config.optimizer, {"schedule": "constant", "warmup_steps": 0, "eps_root": 0.0, "clip": 0.0}
    if settings.name not in ("adam", "adamw") or any(getattr(settings, key) != value for key, value in plain.items()):
        raise UserError(
            "the PyTorch side has a plain Adam; leave optimizer.schedule, warmup_steps, eps_root and clip as they are, "
            "with optimizer.name = adam or adamw, or leave out --pytorch"
        )
    common = {"lr": settings.learning_rate, "betas": (settings.b1, settings.b2), "eps": settings.eps}
    if settings.name == "adam":
        return torch.optim.Adam(module.parameters(), **common)
    return torch.optim.AdamW(module.parameters(), **common, weight_decay=settings.weight_decay)


def training_side(config: Config, module: torch.nn.Module, add_gradient: Callable[[], Any]) -> Side:
    """Returns a side that trains `module`. A call sets gradients to zero, lets `add_gradient` add to them, and takes a step.

    A call returns the loss that `add_gradient` returns.
    """
    optimizer = make_optimizer(config, module)

    def run() -> Any:
        optimizer.zero_grad()
        loss = add_gradient()
        optimizer.step()
        wait()
        return loss

    return Side(run)
