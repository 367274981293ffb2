"""From a config to objects: sources of examples, tasks, model, learner and meta-optimiser."""

from collections.abc import Callable

import jax
import optax

from gpicl_jax.hyper import Hyper
from gpicl_jax.learners.base import Learner
from gpicl_jax.models.base import Model
from gpicl_jax.registry import find, make, names
from gpicl_jax.sections import ALL, IDENTITY, INFINITE, Config
from gpicl_jax.settings import UserError
from gpicl_jax.tasks import Mixture, TaskDistribution
from gpicl_jax.tasks.sources.base import Source
from gpicl_jax.tasks.sources.images import ImageDataset, load

MakeOptimizer = Callable[[Hyper], optax.GradientTransformation]


def make_source(config: Config, name: str, split: str) -> Source:
    """Returns the source of the base dataset `name`, as `[data]` describes it."""
    data = config.data
    if name in names("source"):
        return find("source", name).open(split, data, config.source(name))
    if not data.features:
        return load(name, split, size=data.size, channels=data.channels, data_dir=data.dir, standardize=data.standardize)
    source = load(name, split, data_dir=data.dir)
    if source.num_features != data.features:
        raise UserError(
            f"'{name}' has {source.num_features} numbers an example, but data.features = {data.features}; make them agree"
        )
    return source


def make_tasks(config: Config, split: str, name: str | None = None, source: Source | None = None) -> TaskDistribution:
    """Returns the tasks of one split of `data.train`, of another base dataset `name`, or over a given `source`.

    Only training tasks come from a finite set and have the config's law of matrices, clutter and feature scales. Others have
    normal matrices, so that learners of different laws are measured by the same tasks.

    Raises:
      UserError: a source cannot be opened, cannot fill an episode, or draws inputs or labels of a wrong shape, type or range.
    """
    sources = [source] if source else [make_source(config, each, split) for each in ([name] if name else config.data.train)]
    settings = config.tasks
    try:
        tasks = TaskDistribution(
            source=sources[0] if len(sources) == 1 else Mixture(tuple(sources), config.data.weights),
            length=settings.length,
            classes_per_task=settings.classes_per_task,
            num_context=settings.num_context,
            balanced=settings.balanced,
            clutter=settings.clutter if split == "train" else 0.0,
            feature_scales=settings.feature_scales if split == "train" else 0.0,
            infinite=split != "train" or settings.num_tasks == INFINITE,
            curriculum=split == "train" and settings.curriculum,
            entries=settings.entries if split == "train" or settings.entries == IDENTITY else "normal",
        )
        _check_curriculum(tasks, settings.active_classes)
    except UserError as error:
        raise UserError(f"{split} images: {error}") from None
    for each in sources:
        if not isinstance(each, ImageDataset):  # whose arrays were checked when they were read
            _check_draw(each, tasks)
    return tasks


def _check_curriculum(tasks: TaskDistribution, active_classes: int | str) -> None:
    if tasks.curriculum and active_classes != ALL and active_classes >= tasks.num_labels:
        raise UserError(
            f"'{tasks.source.name}' has {tasks.num_labels} classes, so that {active_classes} active ones are all; "
            "give tasks.images_per_class alone, or another source"
        )


def _check_draw(source: Source, tasks: TaskDistribution) -> None:
    """Raises UserError where an episode of a source does not fit the description of `Examples`."""
    draw = jax.jit(lambda task_key, key: source.draw(task_key, key, tasks.drawing))
    pixels_LX, labels_L, *_ = draw(*jax.random.split(jax.random.key(0)))
    shape, num_labels = (tasks.length, source.num_features), min(tasks.classes_per_task, source.num_classes)
    if pixels_LX.shape != shape or labels_L.shape != shape[:1] or labels_L.dtype.kind not in "iu":
        raise UserError(
            f"'{source.name}' draws inputs {list(pixels_LX.shape)} and {labels_L.dtype} labels {list(labels_L.shape)}; "
            f"expected [L, X] = {list(shape)} and integers [L]"
        )
    low, high = int(labels_L.min()), int(labels_L.max())
    if low < 0 or high >= num_labels:
        raise UserError(
            f"'{source.name}' draws labels from {low} to {high}; expected 0 to {num_labels - 1}, as num_classes = "
            f"{source.num_classes} and tasks.classes_per_task = {tasks.classes_per_task}"
        )


def make_model(config: Config) -> Model:
    """Returns the Flax module that `[model]` names."""
    given = {"num_classes": config.tasks.classes_per_task, "max_length": config.tasks.length, "channels": config.data.channels}
    return make("model", config.model, **given)


def make_learner(config: Config) -> Learner:
    """Returns the learner that `[learner]` names, with the model that `[model]` names."""
    tasks = config.tasks
    given = {"num_features": config.data.num_features, "length": tasks.length, "num_context": tasks.num_context}
    return make("learner", config.learner, model=make_model(config), **given)


def make_optimizer(config: Config) -> MakeOptimizer:
    """Returns a function from the traced settings to the Optax optimiser that `[optimizer]` names. See `Optimizer`."""
    return make("optimizer", config.optimizer, steps=config.train.steps)
