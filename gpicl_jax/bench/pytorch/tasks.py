"""Tasks in plain PyTorch: stored one after another, as the public project designs it, and a lean batch that is not stored."""

import numpy as np
import torch
from torch.nn import functional

from gpicl_jax.bench.pytorch import device_of_torch, wait
from gpicl_jax.tasks import TaskDistribution

Batch = tuple[torch.Tensor, torch.Tensor]


class StoredTasks:
    """Tasks as tensors in memory. A task has the tokens [x_i, onehot y_{i−1}] and the labels of one episode.

    Args:
      tasks: tasks over images. The images are kept as standardised float32, so that no task pays for a conversion.
      device: `cpu` or `cuda`. The default is JAX's device.
    """

    def __init__(self, tasks: TaskDistribution, device: str = "") -> None:
        dataset, self.device = tasks.source, device or device_of_torch()
        pixels_NX = torch.tensor(np.asarray(dataset.images_NX), device=self.device)
        self.images_NX = pixels_NX.float().sub_(float(dataset.mean)).div_(float(dataset.std))
        self.labels_N = torch.tensor(np.asarray(dataset.labels_N), device=self.device).long()
        self.length, self.num_classes = tasks.length, tasks.classes_per_task

    def make_one(self) -> Batch:
        """Returns one task: tokens [L, X + C], labels [L]."""
        num_images, num_features = self.images_NX.shape
        projection_XX = torch.empty(num_features, num_features, device=self.device).normal_(0, num_features**-0.5)
        permutation_C = torch.randperm(self.num_classes, device=self.device)
        indices_L = torch.randint(num_images, (self.length,), device=self.device)
        x_LX = functional.linear(self.images_NX[indices_L], projection_XX)
        y_L = permutation_C[self.labels_N[indices_L]]
        return tokens(x_LX[None], y_L[None], self.num_classes)[0], y_L

    def make(self, num_tasks: int) -> list[Batch]:
        """Returns a list of tasks, made one after another."""
        made = [self.make_one() for _ in range(num_tasks)]
        wait()
        return made

    def batch(self, num_tasks: int) -> Batch:
        """Returns tokens [B, L, X + C] and labels [B, L] of tasks made one after another."""
        x, y = zip(*(self.make_one() for _ in range(num_tasks)), strict=True)
        return torch.stack(x), torch.stack(y)

    def lean_batch(self, num_tasks: int) -> Batch:
        """Returns a batch of the same law, made at once: random normals and one batched product."""
        num_images, num_features = self.images_NX.shape
        normal_BXX = torch.randn(num_tasks, num_features, num_features, device=self.device)
        permutation_BC = torch.rand(num_tasks, self.num_classes, device=self.device).argsort(dim=1)
        indices_BL = torch.randint(num_images, (num_tasks, self.length), device=self.device)
        x_BLX = torch.bmm(self.images_NX[indices_BL] * num_features**-0.5, normal_BXX.transpose(1, 2))
        y_BL = permutation_BC.gather(1, self.labels_N[indices_BL])
        return tokens(x_BLX, y_BL, self.num_classes), y_BL


def tokens(x_BLX: torch.Tensor, y_BL: torch.Tensor, num_classes: int, label_scale: float = 1.0) -> torch.Tensor:
    """Returns [x_i, onehot y_{i−1}], float32 [B, L, X + C], as `models.base.tokens` does."""
    labels_BLC = label_scale * functional.one_hot(y_BL, num_classes).float()
    before_BLC = functional.pad(labels_BLC, (0, 0, 1, 0))[:, :-1]
    return torch.cat([x_BLX, before_BLC], dim=-1)
