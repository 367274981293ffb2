"""The plain PyTorch versions that `gpicl bench --pytorch` times: eager mode, same networks and sizes. Imported only then."""

import jax
import torch

from gpicl_jax.bench.machine import threads
from gpicl_jax.settings import UserError


def device_of_torch() -> str:
    """Gives PyTorch as many threads as JAX has; returns the device that is JAX's.

    On a GPU float32 products are in TF32 on both sides: it is JAX's default there, and PyTorch is told so.

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


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
