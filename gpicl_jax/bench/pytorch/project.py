"""The public PyTorch project's own task generator (github.com/Lerostre/gpicl), called in the user's clone."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas  # noqa: F401  (theirs too; loaded before stand-ins are)
import torch
import tqdm.auto  # noqa: F401  (likewise)

from gpicl_jax.bench.pytorch import device_of_torch
from gpicl_jax.settings import UserError, one_line
from gpicl_jax.tasks import TaskDistribution

# What its file imports and its generator never touches: stand-ins spare the user from installing it all.
_UNUSED = ("IPython", "IPython.display", "models", "pytorch_lightning", "pytorch_lightning.loggers", "torchvision")
_UNUSED += ("torchvision.datasets", "torchvision.transforms", "wandb")


class Project:
    """Its `TaskAugmentor`, over our images; it makes matrices on JAX's device and keeps tasks in the CPU's memory.

    Args:
      folder: of the clone.
      tasks: of images, which are handed over as float32, so that it pays for no conversion.

    Raises:
      UserError: no such folder, no `datagen.py` with a `TaskAugmentor` in it, or it cannot be imported.
    """

    def __init__(self, folder: Path, tasks: TaskDistribution) -> None:
        self._device, dataset = device_of_torch(), tasks.source
        ours = torch.get_float32_matmul_precision()
        module = _import(folder)
        self._precision = torch.get_float32_matmul_precision()  # importing it changes everybody's
        torch.set_float32_matmul_precision(ours)
        self._augmentor, self._length = module.TaskAugmentor, tasks.length
        images_NX = torch.tensor(np.asarray(dataset.images_NX)).float().div_(255)
        self._dataset = SimpleNamespace(
            data=images_NX, targets=torch.tensor(np.asarray(dataset.labels_N)).long(), transform=lambda images: images
        )

    def make(self, num_tasks: int) -> Any:
        """So many tasks of one sequence; they are returned, and nothing is kept here."""
        ours = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self._precision)
        num_features = self._dataset.data.shape[1]
        tasks = self._augmentor(
            n_tasks=num_tasks, data_dim=num_features, device=self._device, draw_sequence=True, sequence_length=self._length
        )
        made = tasks.transform(self._dataset, n_samples=1)
        torch.set_float32_matmul_precision(ours)
        return made

    def batch(self, num_tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B, L, X + C] and labels [B, L]."""
        made = self.make(num_tasks)
        return made.data.to(self._device), made.targets.to(self._device)


def _import(folder: Path) -> Any:
    file = folder / "datagen.py"
    if not file.is_file():
        raise UserError(f"--pytorch-repo {folder}: no datagen.py there; give a clone of github.com/Lerostre/gpicl")
    spec = importlib.util.spec_from_file_location("gpicl_public_project", file)
    module = importlib.util.module_from_spec(spec)
    stand_ins = {name: MagicMock() for name in _UNUSED if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # somebody else's file: anything may happen
        raise UserError(f"--pytorch-repo {folder}: datagen.py cannot be imported: {one_line(error)}") from None
    finally:
        for name in stand_ins:
            del sys.modules[name]
    if not hasattr(module, "TaskAugmentor"):
        raise UserError(f"--pytorch-repo {folder}: datagen.py has no TaskAugmentor; give a clone of github.com/Lerostre/gpicl")
    module.tqdm = lambda tasks, **_: tasks  # no bars between our lines
    return module
