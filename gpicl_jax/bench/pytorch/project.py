"""The task generator of the public PyTorch project (github.com/Lerostre/gpicl), called in the user's clone."""

import builtins
import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch

from gpicl_jax.bench.pytorch import device_of_torch
from gpicl_jax.settings import UserError, one_line
from gpicl_jax.tasks import TaskDistribution

# What its file imports and its generator never touches. To that file stand-ins are given: the user need not install it all.
_UNUSED = ("IPython", "models", "pytorch_lightning", "torchvision", "wandb")


class Project:
    """The project's `TaskAugmentor` over our images. It makes matrices on JAX's device and keeps tasks in the CPU's memory.

    Args:
      folder: clone of the project.
      tasks: tasks over images. The images are handed over as float32, so that no conversion is timed.

    Raises:
      UserError: no such folder, no `datagen.py` with a `TaskAugmentor` in it, or it cannot be imported.
    """

    def __init__(self, folder: Path, tasks: TaskDistribution) -> None:
        self._device, self._length = device_of_torch(), tasks.length
        with _precision_kept():  # the file changes everybody's
            self._augmentor = _import(folder).TaskAugmentor
            self._precision = torch.get_float32_matmul_precision()
        images_NX = torch.tensor(np.asarray(tasks.source.images_NX)).float().div_(255)
        labels_N = torch.tensor(np.asarray(tasks.source.labels_N)).long()
        self._dataset = SimpleNamespace(data=images_NX, targets=labels_N, transform=lambda images: images)

    def make(self, num_tasks: int) -> Any:
        """Returns `num_tasks` new tasks of one sequence each, and keeps none of them."""
        sizes = {"n_tasks": num_tasks, "data_dim": self._dataset.data.shape[1], "sequence_length": self._length}
        with _precision_kept():
            torch.set_float32_matmul_precision(self._precision)
            return self._augmentor(**sizes, device=self._device, draw_sequence=True).transform(self._dataset, n_samples=1)

    def batch(self, num_tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns tokens [B, L, X + C] and labels [B, L]."""
        made = self.make(num_tasks)
        return made.data.to(self._device), made.targets.to(self._device)


@contextlib.contextmanager
def _precision_kept() -> Iterator[None]:
    """Restores PyTorch's precision of float32 products at the end of the block."""
    ours = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(ours)


def _import(folder: Path) -> ModuleType:
    """Imports `datagen.py` of the clone that the user named. Its own imports of what it does not need give stand-ins."""
    file = folder / "datagen.py"
    if not file.is_file():
        raise UserError(f"--pytorch-repo {folder}: no datagen.py there; give a clone of github.com/Lerostre/gpicl")

    def import_(name: str, *arguments: Any, **keywords: Any) -> Any:
        return MagicMock() if name.split(".")[0] in _UNUSED else __import__(name, *arguments, **keywords)

    spec = importlib.util.spec_from_file_location("gpicl_public_project", file)
    module = importlib.util.module_from_spec(spec)
    module.__builtins__ = vars(builtins) | {"__import__": import_}
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # somebody else's file: anything may happen
        raise UserError(f"--pytorch-repo {folder}: datagen.py cannot be imported: {one_line(error)}") from None
    if not hasattr(module, "TaskAugmentor"):
        raise UserError(f"--pytorch-repo {folder}: datagen.py has no TaskAugmentor; give a clone of github.com/Lerostre/gpicl")
    module.tqdm = lambda tasks, **_: tasks  # no bars between our lines
    return module
