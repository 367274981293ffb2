"""What benchmarks share: the options of the command, and a training program on random images in parts."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gpicl_jax.build import make_tasks
from gpicl_jax.config import as_dict, config_from_dict
from gpicl_jax.hyper import Hyper, hyper_from
from gpicl_jax.sections import Config
from gpicl_jax.tasks import Episode, TaskDistribution, draw_episodes
from gpicl_jax.tasks.sources.images import ImageDataset
from gpicl_jax.training import step as training
from gpicl_jax.training.parallel import gradient_in_parts
from gpicl_jax.training.program import make_program
from gpicl_jax.training.step import BatchGradient, Metrics, TrainState

SIZES = ("data.size", "data.channels", "tasks.tasks_per_step", "tasks.length", "tasks.classes_per_task")
NUM_IMAGES = 60_000


class Asked(NamedTuple):
    """The options of `gpicl bench`.

    Attributes:
      pytorch: whether to time our plain PyTorch version.
      pytorch_repo: folder of the public PyTorch project, to time its task generator.
      repeats: rounds that count.
    """

    pytorch: bool = False
    pytorch_repo: Path | None = None
    repeats: int = 7

    @property
    def options(self) -> tuple[str, ...]:
        """The PyTorch options that were given."""
        return ("--pytorch",) * self.pytorch + ("--pytorch-repo",) * (self.pytorch_repo is not None)

    def makers(self, tasks: TaskDistribution) -> dict[str, Any]:
        """Returns the task generators in PyTorch by name: our plain version, the public project."""
        makers = {}
        if self.pytorch:
            from gpicl_jax.bench.pytorch.tasks import StoredTasks

            makers["pytorch"] = StoredTasks(tasks)
        if self.pytorch_repo is not None:
            from gpicl_jax.bench.pytorch.project import Project

            makers["pytorch, the public project"] = Project(self.pytorch_repo, tasks)
        return makers


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    """Returns `config` with other settings, by section.

    Raises:
      UserError: the settings do not fit each other.
    """
    return config_from_dict(as_dict(config), sections)


def model_size(config: Config) -> str:
    """Returns the model's width and number of layers for a title, or its name if it has no layers.

    Example:
      >>> from gpicl_jax.config import load_config
      >>> model_size(load_config("bench/step")), model_size(load_config("bench/step", ("--model.name=lstm",)))
      ('width 256, 4 layers', 'lstm')
    """
    model = config.model
    return f"width {model.width}, {model.num_layers} layers" if hasattr(model, "num_layers") else model.name


class Program:
    """A `training.program.TrainingProgram` with its tasks and inputs.

    Args:
      config: checked settings.
      tasks: tasks to draw from. The default is `[tasks]` over 60,000 random uint8 images of 10 classes.

    Attributes:
      hyper: the traced settings, on the device.
      init: compiled function from `hyper` to the state before the first step.
      chunk: takes `train.chunk` training steps in one scan.
      shape: (T, S), tasks of a batch, and episodes of a task.
    """

    def __init__(self, config: Config, tasks: TaskDistribution | None = None) -> None:
        self.config, self.hyper, self.tasks = config, jax.device_put(hyper_from(config)), tasks or _random_tasks(config)
        made = make_program(config)
        self.learner, self._optimizer, self.init = made.learner, made.optimizer, jax.jit(made.init)
        self.chunk = functools.partial(made.chunk, gradient=made.gradient)
        self.shape = config.tasks.tasks_per_step, config.tasks.sequences_per_task

    def changed(self, **sections: dict[str, Any]) -> "Program":
        """Returns the program with other settings over the same tasks, as the function `changed` does."""
        return Program(changed(self.config, **sections), self.tasks)

    def draw(self, tasks: TaskDistribution, step: jax.Array, hyper: Hyper) -> Episode:
        """Draws the episodes of one step, with axes [T, S], as a training step does."""
        keys = training.draw_batch_keys(tasks, step, hyper, self.shape)
        return draw_episodes(tasks, keys.task_T, keys.sequence_TS, hyper.permute_labels_prob)

    def first_batch(self) -> Episode:
        """Returns the episodes of step 0, with axis [B]."""
        episodes_TS = jax.jit(self.draw)(self.tasks, np.int32(0), self.hyper)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), episodes_TS)

    def given_gradient(self, parts: int) -> BatchGradient:
        """Returns `gradient(params, None, episodes_B, hyper)` of the mean loss of given episodes, without keys.

        It takes the episodes in `parts` equal parts, one after another.
        """
        key = jax.random.key(0)  # of the order of inner batches

        def of_part(params: Any, _: None, episodes_b: Episode, __: Hyper) -> tuple[Any, Metrics]:
            def mean_loss(params: Any) -> jax.Array:
                return jax.vmap(lambda episode: self.learner.loss(params, episode, key=key)[0])(episodes_b).mean()

            loss, gradient = jax.value_and_grad(mean_loss)(params)
            return gradient, {"loss": loss}

        return gradient_in_parts(of_part, parts)

    def given_step(
        self, state: TrainState, episodes_B: Episode, hyper: Hyper, *, gradient: BatchGradient
    ) -> tuple[TrainState, Metrics]:
        """Takes a training step on given episodes."""

        def given(params: Any, *_: Any) -> tuple[Any, Metrics]:
            return gradient(params, None, episodes_B, hyper)

        return training.train_step(state, self.tasks, hyper, config=self.config, gradient=given, optimizer=self._optimizer)


def _random_tasks(config: Config) -> TaskDistribution:
    random, shape = np.random.default_rng(0), (NUM_IMAGES, config.data.num_features)
    images_NX, labels_N = random.integers(0, 256, shape, dtype=np.uint8), random.integers(0, 10, NUM_IMAGES)
    images = ImageDataset.build(images_NX, labels_N, mean=127.5, std=73.9, name="random images")
    return make_tasks(config, "train", source=images)
