"""The settings of a run: frozen dataclasses, read from TOML, checked before anything is compiled.

Defaults follow the paper (arXiv 2212.04458: width 256, permuted labels) and, where it is silent, its authors' code.
Floor 1: imports only what one setting is, from `settings`.
"""

import dataclasses
import json
import os
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from gpicl_jax.settings import UserError, checked, nearest, setting

INFINITE = "infinite"
MAX_TASKS = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    train: tuple[str, ...] = setting(("mnist",), "base datasets of meta-training: names, ./files.npz, ./folders")
    weights: tuple[float, ...] = setting((), "chance of a task to be of each of them; [] is equal chances", above=0.0)
    size: int = setting(14, "height and width of the images after resizing", minimum=1, maximum=512)
    channels: int = setting(1, "1 is grey, 3 is colour", choices=(1, 3))
    dir: str = setting("", "folder of prepared TFDS sets; '' is TFDS_DATA_DIR, or TFDS's own default")


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    num_tasks: int | str = setting(INFINITE, "size of the task set", minimum=1, maximum=MAX_TASKS, word=INFINITE)
    tasks_per_step: int = setting(16, "tasks drawn for every meta-training step", minimum=1)
    sequences_per_task: int = setting(32, "episodes of each of these tasks", minimum=1)
    length: int = setting(100, "examples of an episode", minimum=2)
    classes_per_task: int = setting(10, "labels of a task; a set with more classes lends it so many", minimum=2)
    balanced: bool = setting(False, "whether an episode shows every class equally often (else: iid)")
    permute_labels_prob: float = setting(1.0, "chance that a task permutes its labels", minimum=0.0, maximum=1.0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    name: str = setting("transformer", "architecture", choices=("transformer",))
    width: int = setting(256, "size of the residual stream", minimum=1)
    num_layers: int = setting(4, "blocks", minimum=1)
    num_heads: int = setting(8, "attention heads of a block", minimum=1)
    head_size: int = setting(32, "size of a key, query and value", minimum=1)
    mlp_width: int = setting(0, "hidden units of a block's MLP; 0 is 4 × width", minimum=0)
    layout: str = setting("shifted", "what a token holds", choices=("shifted", "paired"))
    label_scale: float = setting(1.0, "value of the hot entry of a label in a token", above=0.0)
    smear_keys: bool = setting(False, "mix each key with the one before it")
    activation: str = setting("gelu", "non-linearity of the MLPs", choices=("gelu", "relu"))
    dtype: str = setting("float32", "precision inside the blocks", choices=("float32", "bfloat16"))


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    name: str = setting("adam", "meta-optimiser", choices=("adam", "adamw", "muon", "sgd"))
    learning_rate: float = setting(1e-3, "step size (its peak, under a schedule)", above=0.0)
    schedule: str = setting("constant", "course of the step size after the warm-up", choices=("constant", "cosine"))
    warmup_steps: int = setting(0, "steps of linear warm-up", minimum=0)
    b1: float = setting(0.9, "Adam's decay of the mean", minimum=0.0, below=1.0)
    b2: float = setting(0.999, "Adam's decay of the square", minimum=0.0, below=1.0)
    eps: float = setting(1e-8, "eps of adam, adamw and muon, outside the root", minimum=0.0)
    eps_root: float = setting(1e-8, "Adam's eps, inside the root", minimum=0.0)
    weight_decay: float = setting(0.0, "decoupled weight decay (adamw, muon)", minimum=0.0)
    momentum: float = setting(0.95, "momentum (sgd, muon)", minimum=0.0, below=1.0)
    clip: float = setting(0.0, "largest global norm of the gradient; 0 is no clipping", minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    steps: int = setting(50_000, "meta-training steps", minimum=1)
    chunk: int = setting(100, "steps of one compiled call", minimum=1)
    seed: int = setting(0, "seed of weights, tasks and images", minimum=0, maximum=2**31 - 1)
    validate_every: int = setting(1000, "steps between validations, each with a checkpoint", minimum=1)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    episodes: int = setting(1024, "meta-test episodes of each kind of task", minimum=2)
    sequences_per_task: int = setting(4, "meta-test episodes of one task", minimum=1)
    seed: int = setting(0, "seed of the validation and the test tasks", minimum=0, maximum=2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run, one attribute per TOML section.

    Example:
      >>> Config().tasks.length
      100
      >>> config_from_dict({"tasks": {"lenght": 50}})
      Traceback (most recent call last):
      ...
      gpicl_jax.settings.UserError: unknown setting tasks.lenght; did you mean tasks.length?
    """

    data: DataConfig = DataConfig()
    tasks: TasksConfig = TasksConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()


# What a resumed run may change: nothing that its weights depend on.
FREE_ON_RESUME = ("data.dir", "train.validate_every", "eval.episodes")


class Hyper(NamedTuple):
    """The numbers of a run that are traced, not compiled in, so that a population can differ in them."""

    learning_rate: Any
    eps: Any
    num_tasks: Any
    permute_labels_prob: Any
    seed: Any


def hyper_from(config: Config) -> Hyper:
    """The traced scalars of `config`, as NumPy scalars (strong types, so nothing recompiles)."""
    import numpy as np

    num_tasks = MAX_TASKS if config.tasks.num_tasks == INFINITE else config.tasks.num_tasks
    return Hyper(
        learning_rate=np.float32(config.optimizer.learning_rate),
        eps=np.float32(config.optimizer.eps),
        num_tasks=np.int32(num_tasks),
        permute_labels_prob=np.float32(config.tasks.permute_labels_prob),
        seed=np.int32(config.train.seed),
    )


def load_config(source: str, overrides: tuple[str, ...] = ()) -> Config:
    """Reads a TOML file, or a config of the package by its name, applies `--section.key=value` and checks all.

    Args:
      source: a path that ends in .toml, or a name such as `digits`.
      overrides: strings `--section.key=value`; a value is read as TOML, and as plain text where it is none.

    Raises:
      UserError: no such file, not TOML, an unknown key, a wrong type, an impossible value.

    Example:
      >>> load_config("digits", ("--train.steps=200",)).train.steps
      200
    """
    values = _parse_toml(source)
    for override in overrides:
        section, key, value = _parse_override(override)
        values.setdefault(section, {})
        if isinstance(values[section], dict):
            values[section][key] = value
    return config_from_dict(values)


def packaged_configs() -> list[str]:
    """Names of the configs inside the package."""
    folder = resources.files("gpicl_jax") / "configs"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def _parse_toml(source: str) -> dict[str, Any]:
    path: Any = Path(source)
    if "/" not in source and not source.endswith(".toml"):
        if source not in packaged_configs():
            file = Path("configs") / f"{source}.toml"
            hint = (
                f"did you mean {file}?"
                if file.is_file()
                else f"give the path of a .toml file or: {', '.join(packaged_configs())}"
            )
            raise UserError(f"no config '{source}'; {hint}")
        path = resources.files("gpicl_jax") / "configs" / f"{source}.toml"
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(f"no config file {source}; check the path") from None
    except OSError as error:
        raise UserError(f"cannot read config {source}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{source} is not TOML: {error}") from None
    if not values:
        raise UserError(f"{source} holds no setting; expected sections such as [tasks] or [train]")
    return values


def _parse_override(text: str) -> tuple[str, str, Any]:
    match = re.fullmatch(r"--(\w+)\.(\w+)=(.*)", text, flags=re.DOTALL)
    if match is None:
        raise UserError(f"unknown argument '{text}'; settings are given as --section.key=value, e.g. --train.steps=500")
    section, key, value = match.groups()
    try:
        return section, key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, value


def config_from_dict(values: dict[str, Any]) -> Config:
    """Builds and checks a `Config` from nested dictionaries; raises `UserError` at the first fault."""
    sections = {field.name: field.type for field in dataclasses.fields(Config)}
    built = {}
    for name, entries in values.items():
        if name not in sections:
            raise UserError(f"unknown section [{name}]{nearest(name, sections, '[{}]')}")
        if not isinstance(entries, dict):
            raise UserError(f"{name} = {entries!r} stands outside a section; expected a section [{name}] with settings")
        fields = {field.name: field for field in dataclasses.fields(sections[name])}
        for key in entries:
            if key not in fields:
                raise UserError(f"unknown setting {name}.{key}{nearest(key, fields, name + '.{}')}")
        built[name] = sections[name](**{key: checked(f"{name}.{key}", value, fields[key]) for key, value in entries.items()})
    config = Config(**built)
    _check_together(config)
    data = config.data  # a run is evaluated from other folders too
    folder = os.path.abspath(os.path.expanduser(data.dir)) if data.dir else ""
    data = dataclasses.replace(data, train=tuple(map(absolute_name, data.train)), dir=folder)
    return dataclasses.replace(config, data=data)


def absolute_name(name: str) -> str:
    """The name of a base dataset, absolute if it is a path."""
    return os.path.abspath(os.path.expanduser(name)) if is_path(name) else name


def is_path(name: str) -> bool:
    """Whether the name of a base dataset is the path of the user's own file or folder."""
    return name.endswith(".npz") or name.startswith((".", "/", "~"))


def short_name(name: str) -> str:
    """What tables call a base dataset: an own file or folder by its last part, a TFDS set without its version.

    Example:
      >>> short_name("../mine/flowers.npz"), short_name("../mine/flowers"), short_name("mnist:3.0.1")
      ('flowers.npz', 'flowers/', 'mnist')
    """
    if not is_path(name):
        return name.split(":")[0]
    return Path(name).name + ("" if name.endswith(".npz") else "/")


def _check_together(config: Config) -> None:
    train, evaluation, data = config.train, config.eval, config.data
    if not data.train or len(set(map(short_name, data.train))) < len(data.train):
        raise UserError(f"data.train = {list(data.train)}; expected one or more base datasets of different names")
    if data.weights and len(data.weights) != len(data.train):
        raise UserError(f"data.weights has {len(data.weights)} numbers for {len(data.train)} base datasets; give one for each")
    for name, steps in (("train.steps", train.steps), ("train.validate_every", train.validate_every)):
        if steps % train.chunk:
            raise UserError(f"{name} = {steps} is not a multiple of train.chunk = {train.chunk}; change one of them")
    if evaluation.episodes % evaluation.sequences_per_task:
        raise UserError(
            f"eval.episodes = {evaluation.episodes} is not a multiple of "
            f"eval.sequences_per_task = {evaluation.sequences_per_task}; change one of them"
        )
    if evaluation.episodes < 2 * evaluation.sequences_per_task:
        raise UserError(
            f"eval.episodes = {evaluation.episodes} makes fewer than 2 tasks of "
            f"eval.sequences_per_task = {evaluation.sequences_per_task}; a standard error over tasks needs 2 or more"
        )
    if config.optimizer.schedule == "cosine" and config.optimizer.warmup_steps >= train.steps:
        raise UserError(
            f"optimizer.warmup_steps = {config.optimizer.warmup_steps} leaves nothing of train.steps = {train.steps}; lower it"
        )


def to_toml(config: Config) -> str:
    """The whole of `config`, defaults included, as TOML text that `load_config` reads back to an equal one."""
    lines = []
    for section, entries in dataclasses.asdict(config).items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entries.items()]
        lines.append("")
    return "\n".join(lines)


def changed_settings(old: Config, new: Config) -> list[str]:
    """Names of the settings that differ, each with both values: `model.width (64 there, 128 given)`."""
    before, after = dataclasses.asdict(old), dataclasses.asdict(new)
    return [
        f"{section}.{key} ({before[section][key]!r} there, {after[section][key]!r} given)"
        for section in before
        for key in before[section]
        if before[section][key] != after[section][key]
    ]
