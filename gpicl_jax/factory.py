"""From config to objects: the only place that maps names to classes."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from gpicl_jax.config import INFINITE, Config, Hyper
from gpicl_jax.data import ImageDataset, load
from gpicl_jax.learners import InContext, Learner
from gpicl_jax.models import Transformer
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Mixture, RandomPoints, TaskDistribution

MakeOptimizer = Callable[[Hyper], optax.GradientTransformation]


def make_source(config: Config, name: str, split: str) -> ImageDataset | RandomPoints:
    """The base dataset `name` as `[data]` wants its images."""
    data = config.data
    if name == "random":
        return RandomPoints(data.size**2 * data.channels)
    return load(name, split, size=data.size, channels=data.channels, data_dir=data.dir)


def make_tasks(config: Config, split: str, name: str | None = None) -> TaskDistribution:
    """The tasks of one split of `data.train`, or of another base dataset.

    Only the training split draws from a finite task set.
    """
    sources = [make_source(config, each, split) for each in ([name] if name else config.data.train)]
    settings = config.tasks
    try:
        return TaskDistribution(
            source=sources[0] if len(sources) == 1 else Mixture(tuple(sources), config.data.weights),
            length=settings.length,
            classes_per_task=settings.classes_per_task,
            balanced=settings.balanced,
            infinite=split != "train" or settings.num_tasks == INFINITE,
        )
    except UserError as error:
        raise UserError(f"{split} images: {error}") from None


def make_learner(config: Config) -> Learner:
    """The learner that `[model]` names."""
    model = config.model
    transformer = Transformer(
        num_classes=config.tasks.classes_per_task,
        width=model.width,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        head_size=model.head_size,
        mlp_width=model.mlp_width,
        max_length=config.tasks.length,
        layout=model.layout,
        label_scale=model.label_scale,
        smear_keys=model.smear_keys,
        activation=model.activation,
        dtype=jnp.dtype(model.dtype),
    )
    return InContext(transformer, config.data.size**2 * config.data.channels, config.tasks.length)


def make_optimizer(config: Config) -> MakeOptimizer:
    """A function from the traced `Hyper` to the Optax optimiser that `[optimizer]` names.

    It is called inside the traced step: a learning rate or eps that is traced goes straight into Optax.
    """
    settings = config.optimizer
    schedule = _schedule(config)

    def optimizer(hyper: Hyper) -> optax.GradientTransformation:
        def learning_rate(count):
            return hyper.learning_rate * schedule(count)

        adam = {"b1": settings.b1, "b2": settings.b2, "eps": hyper.eps, "eps_root": settings.eps_root}
        if settings.name == "adam":
            update = optax.adam(learning_rate, **adam)
        elif settings.name == "adamw":
            update = optax.adamw(learning_rate, **adam, weight_decay=settings.weight_decay)
        elif settings.name == "muon":
            update = optax.contrib.muon(
                learning_rate,
                beta=settings.momentum,
                eps=hyper.eps,
                weight_decay=settings.weight_decay,
                adam_b1=settings.b1,
                adam_b2=settings.b2,
                adam_eps_root=settings.eps_root,
            )
        else:
            update = optax.sgd(learning_rate, momentum=settings.momentum)
        clip = [optax.clip_by_global_norm(settings.clip)] if settings.clip else []
        return optax.chain(*clip, update)

    return optimizer


def _schedule(config: Config) -> optax.Schedule:
    """The learning rate's course as a fraction of its peak."""
    settings = config.optimizer
    if settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(1.0, config.train.steps - settings.warmup_steps)
    else:
        after = optax.constant_schedule(1.0)
    if not settings.warmup_steps:
        return after
    # the first step already moves: (count + 1) / warmup_steps
    rise = optax.linear_schedule(1 / settings.warmup_steps, 1.0, settings.warmup_steps - 1)
    return optax.join_schedules([rise, after], [settings.warmup_steps])
