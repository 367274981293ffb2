"""The settings of a run, section by section: frozen dataclasses with meanings, limits and defaults.

Defaults follow the paper (arXiv 2212.04458: width 256, permuted labels), or its authors' code where the paper says nothing.
The settings of a model, a learner and an optimiser are fields of its class: see `registry`.
"""

import os
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from gpicl_jax.registry import alternatives, find, section_class
from gpicl_jax.settings import UserError, setting

INFINITE = "infinite"
MAX_TASKS = 2**31 - 1
GRAM = "gram"
ENTRIES = ("normal", "integer", GRAM)
IDENTITY = "identity"
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    train: tuple[str, ...] = setting(("mnist",), "base datasets of meta-training: names, ./files.npz, ./folders")
    weights: tuple[float, ...] = setting((), "chance that a task uses each of them; [] is equal chances", above=0.0)
    size: int = setting(14, "height and width of the images after resizing", minimum=1, maximum=512)
    channels: int = setting(1, "1 is grey, 3 is colour", choices=(1, 3))
    features: int = setting(0, "features of an example where data.train has `features`; 0: images", minimum=0, maximum=2**16)
    standardize: bool = setting(True, "scale pixels to mean 0, deviation 1 of the training images; false: to 0 … 1")
    dir: str = setting("", "folder of prepared TFDS sets; '' is TFDS_DATA_DIR, or TFDS's default", free=True)

    @property
    def num_features(self) -> int:
        """X, the number of features of an example."""
        return self.features or self.size**2 * self.channels

    def check(self, config: "Config") -> None:
        if not self.train or len(set(map(short_name, self.train))) < len(self.train):
            raise UserError(f"data.train = {list(self.train)}; expected one or more base datasets of different names")
        if self.weights and len(self.weights) != len(self.train):
            raise UserError(
                f"data.weights has {len(self.weights)} numbers for {len(self.train)} base datasets; give one for each"
            )


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    num_tasks: int | str = setting(
        INFINITE, "number of training tasks", minimum=1, maximum=MAX_TASKS, word=INFINITE, traced=True
    )
    tasks_per_step: int = setting(16, "tasks drawn for every meta-training step", minimum=1)
    sequences_per_task: int = setting(32, "episodes of each of these tasks in a step", minimum=1)
    length: int = setting(100, "examples of an episode", minimum=2)
    num_context: int = setting(0, "examples before the queries; 0: each example is predicted from those before it", minimum=0)
    classes_per_task: int = setting(10, "labels of a task; a set with more classes gives it this many of them", minimum=2)
    clutter: float = setting(
        0.0,
        "largest weight of another image, added to each one in meta-training, e.g. 2; needs infinite tasks; 0: none",
        minimum=0,
        maximum=10,
    )
    feature_scales: float = setting(
        0.0,
        "largest spread of random log-scales of the features in meta-training, e.g. 1.5; needs infinite tasks; 0: none",
        minimum=0,
        maximum=3,
    )
    balanced: bool = setting(False, "whether context and queries show every class equally often (else: images at random)")
    permute_labels_prob: float = setting(1.0, "chance that a task permutes its labels", minimum=0.0, maximum=1.0, traced=True)
    permute_labels_anneal: int = setting(
        0, "meta-training steps over which that chance rises to 1; 0: it stays", minimum=0, traced=True
    )
    active_classes: int | str = setting(
        ALL,
        "classes that a training episode shows at first, e.g. 2: see rise_at",
        minimum=2,
        maximum=10_000,
        word=ALL,
        traced=True,
    )
    images_per_class: int | str = setting(
        ALL,
        "different images of a class that it shows at first, e.g. 1: see rise_at",
        minimum=1,
        maximum=10_000,
        word=ALL,
        traced=True,
    )
    rise_at: float = setting(
        0.5,
        "training accuracy over the last tenth, corrected for chance, that adds a class or at last doubles the images",
        above=0.0,
        below=1.0,
        traced=True,
    )
    entries: str = setting(
        "normal",
        "distribution of the projection matrices in meta-training; identity: no projection, also in tests",
        choices=(*ENTRIES, IDENTITY),
    )

    @property
    def curriculum(self) -> bool:
        """Whether training episodes show few classes or images at first."""
        return (self.active_classes, self.images_per_class) != (ALL, ALL)

    def check(self, config: "Config") -> None:
        self._check_curriculum()
        if self.balanced and not self.num_context:
            raise UserError(
                "tasks.balanced = true without tasks.num_context gives labels away: the last ones follow from a count of those "
                "before; set tasks.num_context, or leave tasks.balanced out"
            )
        if self.entries == GRAM:
            self._check_gram(config)
        for name in ("clutter", "feature_scales"):
            value = getattr(self, name)
            if value and self.entries in ("integer", IDENTITY):
                raise UserError(
                    f"tasks.{name} = {value:g} is for tasks.entries normal or gram, got {self.entries!r}; "
                    "leave it out, or change entries"
                )
            if value and self.num_tasks != INFINITE:  # a seen task would be another one on other images
                raise UserError(
                    f"tasks.{name} = {value:g} is for tasks.num_tasks = '{INFINITE}', got {self.num_tasks}; leave it out, or "
                    "change num_tasks"
                )

    def _check_curriculum(self) -> None:
        if not self.curriculum:
            if self.rise_at != TasksConfig.rise_at:
                raise UserError(
                    f"tasks.rise_at = {self.rise_at:g} is for a curriculum; give tasks.active_classes = 2 and "
                    "tasks.images_per_class = 1 too, or leave it out"
                )
            return
        given = f"tasks.active_classes = {self.active_classes!r} and tasks.images_per_class = {self.images_per_class!r}"
        if self.num_context:
            raise UserError(
                f"{given} make a curriculum of episodes without queries, but tasks.num_context = {self.num_context}; give "
                f"{ALL!r} for both, or leave num_context out"
            )
        classes, images = self.classes_per_task, -(-self.length // self.classes_per_task)
        if self.active_classes != ALL and self.active_classes >= classes:
            raise UserError(
                f"tasks.active_classes = {self.active_classes}, but a task has {classes} classes; give fewer, or {ALL!r}"
            )
        if self.images_per_class != ALL and self.images_per_class >= images:
            raise UserError(
                f"tasks.images_per_class = {self.images_per_class}, but an episode of {self.length} examples shows about "
                f"{images} images of each of {classes} classes; give fewer, or {ALL!r}"
            )

    def _check_gram(self, config: "Config") -> None:
        if not find("model", config.model.name).any_features:
            raise UserError(
                f"tasks.entries = {GRAM!r} draws the Gram matrix of an episode's inputs and no inputs, which model.name = "
                f"{config.model.name!r} needs; give 'normal' or 'integer', or model.name = "
                f"{alternatives('model', lambda each: each.any_features)}"
            )
        if self.num_tasks != INFINITE or self.sequences_per_task > 1:
            raise UserError(
                f"tasks.entries = 'gram' is for tasks that are used once: tasks.num_tasks = '{INFINITE}' and "
                f"tasks.sequences_per_task = 1, got {self.num_tasks!r} and {self.sequences_per_task}; "
                "change them, or give 'normal' or 'integer'"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    steps: int = setting(50_000, "meta-training steps", minimum=1)
    chunk: int = setting(100, "steps of one compiled call", minimum=1)
    seed: int = setting(0, "seed of weights, tasks and images", minimum=0, maximum=2**31 - 1, traced=True)
    validate_every: int = setting(1000, "steps between validations, each with a checkpoint", minimum=1, free=True)
    patience: int = setting(
        0, "validations in a row without a lower loss after which a run ends; 0: never", minimum=0, free=True
    )
    accumulate: int = setting(1, "parts of a step's tasks, computed one after another to save memory", minimum=1, free=True)

    def check(self, config: "Config") -> None:
        for name, steps in (("train.steps", self.steps), ("train.validate_every", self.validate_every)):
            if steps % self.chunk:
                raise UserError(f"{name} = {steps} is not a multiple of train.chunk = {self.chunk}; change one of them")
        tasks = config.tasks.tasks_per_step
        if tasks % self.accumulate:
            raise UserError(
                f"tasks.tasks_per_step = {tasks} is not a multiple of train.accumulate = {self.accumulate}; change one of them"
            )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    episodes: int = setting(1024, "meta-test episodes of each kind of task", minimum=2, free=True)
    sequences_per_task: int = setting(4, "meta-test episodes of one task", minimum=1)
    seed: int = setting(0, "seed of the validation and the test tasks", minimum=0, maximum=2**31 - 1)

    def check(self, config: "Config") -> None:
        given = f"eval.episodes = {self.episodes}"
        each = f"eval.sequences_per_task = {self.sequences_per_task}"
        if self.episodes % self.sequences_per_task:
            raise UserError(f"{given} is not a multiple of {each}; change one of them")
        if self.episodes < 2 * self.sequences_per_task:
            raise UserError(f"{given} makes fewer than 2 tasks of {each}; a standard error over tasks needs 2 or more")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    to: str = setting("", "where metrics go beside metrics.jsonl", choices=("", "tensorboard", "wandb"), free=True)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run, one attribute per TOML section. A model, learner, optimizer or source has those of its class.

    Example:
      >>> Config().tasks.length, Config().model.name
      (100, 'transformer')
    """

    data: DataConfig = DataConfig()
    tasks: TasksConfig = TasksConfig()
    model: Any = field(default_factory=lambda: section_class("model", "transformer")())
    learner: Any = field(default_factory=lambda: section_class("learner", "in_context")())
    optimizer: Any = field(default_factory=lambda: section_class("optimizer", "adam")())
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()
    sources: tuple[Any, ...] = ()

    @property
    def sections(self) -> dict[str, Any]:
        """All sections by name. A source of `data.train` that has settings has its own section."""
        named = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "sources"}
        return named | {source.name: source for source in self.sources}

    def each_setting(self) -> Iterator[tuple[str, Field, Any]]:
        """Yields all settings: name of the section, field and value."""
        for name, section in self.sections.items():
            yield from ((name, each, getattr(section, each.name)) for each in fields(section))

    def source(self, name: str) -> Any:
        """Returns the settings of a source. They are the defaults where meta-training does not use the source."""
        return next((source for source in self.sources if source.name == name), section_class("source", name)())

    def check(self) -> None:
        """Raises UserError where two settings do not fit each other."""
        for room in ("learner", "model", "optimizer"):
            find(room, getattr(self, room).name).check(self)
        for section in (self.data, self.tasks, self.train, self.eval):
            section.check(self)


def final_permute_prob(config: Config) -> float:
    """Returns the chance that a task permutes its labels at the end of meta-training, in validation and in the meta-test.

    Example:
      >>> final_permute_prob(Config(tasks=TasksConfig(permute_labels_prob=0.1, permute_labels_anneal=500)))
      1.0
    """
    return 1.0 if config.tasks.permute_labels_anneal else config.tasks.permute_labels_prob


def learner_name(config: Config) -> str:
    """Returns the learner's name in tables: the algorithm, or the model where the model is the algorithm.

    Example:
      >>> learner_name(Config())
      'transformer'
    """
    return config.model.name if config.learner.name in ("in_context", "context_query", "instance") else config.learner.name


def is_path(name: str) -> bool:
    """Returns whether the name of a base dataset is the path of the user's own file or folder."""
    return name.endswith(".npz") or name.startswith((".", "/", "~"))


def absolute_name(name: str) -> str:
    """Returns the name of a base dataset, with an absolute path if it is a path."""
    return os.path.abspath(os.path.expanduser(name)) if is_path(name) else name


def short_name(name: str) -> str:
    """Returns a base dataset's name in tables: the last part of a path, or a TFDS name without its version.

    Example:
      >>> short_name("../mine/flowers.npz"), short_name("../mine/flowers"), short_name("mnist:3.0.1")
      ('flowers.npz', 'flowers/', 'mnist')
    """
    if not is_path(name):
        return name.split(":")[0]
    return Path(name).name + ("" if name.endswith(".npz") else "/")
