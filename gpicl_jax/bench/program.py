"""The parts of a training program on random images, put together as `training.trainer.Trainer` puts them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gpicl_jax.build import make_optimizer
from gpicl_jax.config import as_dict, config_from_dict
from gpicl_jax.learners.base import Learner
from gpicl_jax.sections import IDENTITY, INFINITE, Config
from gpicl_jax.tasks import Episode, TaskDistribution, draw_episodes
from gpicl_jax.tasks.sources.images import ImageDataset
from gpicl_jax.training.step import TrainChunk, batch_gradient, draw_batch_keys, gradient_in_parts, train_chunk

NUM_IMAGES = 60_000


def random_images(config: Config) -> ImageDataset:
    """60,000 random uint8 images of 10 classes, of the size that `[data]` says."""
    random = np.random.default_rng(0)
    num_features = config.data.num_features
    images_NX = random.integers(0, 256, (NUM_IMAGES, num_features), dtype=np.uint8)
    return ImageDataset.build(images_NX, random.integers(0, 10, NUM_IMAGES), mean=127.5, std=73.9, name="random images")


def random_tasks(config: Config, images: ImageDataset, entries: str = "") -> TaskDistribution:
    """The tasks that `[tasks]` describes, over `images`; with matrices of another law where `entries` are given."""
    settings = config.tasks
    return TaskDistribution(
        source=images,
        length=settings.length,
        classes_per_task=settings.classes_per_task,
        num_context=settings.num_context,
        balanced=settings.balanced,
        clutter=settings.clutter,
        feature_scales=settings.feature_scales,
        infinite=settings.num_tasks == INFINITE,
        identity=settings.entries == IDENTITY,
        entries=entries or ("normal" if settings.entries == IDENTITY else settings.entries),
    )


def with_tasks(config: Config, **changes: Any) -> Config:
    """`config` with other settings in `[tasks]`, checked.

    Raises:
      UserError: they do not go together.
    """
    settings = as_dict(config)
    settings["tasks"] |= changes
    return config_from_dict(settings)


def shape_of(config: Config) -> tuple[int, int]:
    """(T, S): tasks of a batch, and episodes of each."""
    return config.tasks.tasks_per_step, config.tasks.sequences_per_task


def make_chunk(config: Config, learner: Learner) -> TrainChunk:
    """`train.chunk` training steps in one scan."""
    gradient = gradient_in_parts(batch_gradient(learner), config.train.accumulate)
    return train_chunk(config, make_optimizer(config), gradient)


def draw_batch(config: Config) -> Callable[..., Episode]:
    """`draw(tasks, step, hyper)`: the episodes of one step with axes [T, S], as a training step draws them."""

    def draw(tasks, step, hyper):
        keys = draw_batch_keys(tasks, step, hyper, shape_of(config))
        return draw_episodes(tasks, keys.task_T, keys.sequence_TS, hyper.permute_labels_prob)

    return draw


def flat_batch(episodes_TS: Episode) -> Episode:
    """[T, S, …] → [B, …]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), episodes_TS)
