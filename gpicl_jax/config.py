"""The settings of a run, read from TOML and checked before anything is compiled. Floor 1."""

import dataclasses
import json
import os
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from gpicl_jax.sections import (
    ATTENTION_MODELS,
    CONTEXT_QUERY,
    CONV_MODELS,
    EQUIVARIANT,
    EQUIVARIANT_ABLATIONS,
    GRAM,
    GRAM_MODELS,
    IDENTITY,
    IN_CONTEXT,
    INFINITE,
    MAX_TASKS,
    MLP_LEARNERS,
    ROW_MODELS,
    STUDY_CONV_PIXELS,
    Config,
    ModelConfig,
    has_queries,
)
from gpicl_jax.settings import UserError, checked, nearest


class Hyper(NamedTuple):
    """The numbers of a run that are traced, not compiled in, so that a population can differ in them."""

    learning_rate: Any
    eps: Any
    num_tasks: Any
    permute_labels_prob: Any
    permute_labels_anneal: Any
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
        permute_labels_anneal=np.int32(config.tasks.permute_labels_anneal),
        seed=np.int32(config.train.seed),
    )


def compiled_part(config: Config) -> Config:
    """`config` without the numbers that are traced: what two runs must share to share a program.

    Example:
      >>> compiled_part(load_config("digits", ("--train.seed=3",))) == compiled_part(load_config("digits"))
      True
    """
    num_tasks = INFINITE if config.tasks.num_tasks == INFINITE else 1
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1.0, eps=0.0),
        tasks=dataclasses.replace(config.tasks, num_tasks=num_tasks, permute_labels_prob=1.0, permute_labels_anneal=0),
        train=dataclasses.replace(config.train, seed=0),
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


def packaged_configs(pattern: str = "**/*") -> list[str]:
    """Names of the configs inside the package: `digits`, and those in folders, `comparison/laptop/lstm`.

    Example:
      >>> packaged_configs("*")
      ['digits', 'digits_transformer']
    """
    folder = resources.files("gpicl_jax") / "configs"
    with resources.as_file(folder) as path:
        return sorted(str(file.relative_to(path).with_suffix("")) for file in path.glob(f"{pattern}.toml"))


def _parse_toml(source: str) -> dict[str, Any]:
    path: Any = Path(source)
    if source in packaged_configs():
        path = resources.files("gpicl_jax") / "configs" / f"{source}.toml"
    elif not source.endswith(".toml") and not path.exists():
        file = Path("configs") / f"{source}.toml"
        if file.is_file():
            raise UserError(f"no config '{source}'; did you mean {file}?")
        raise UserError(f"no config '{source}' in the package (a path ends in .toml){nearest(source, packaged_configs())}")
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
    """Builds and checks a `Config` from nested dictionaries; raises `UserError` at the first fault.

    Example:
      >>> config_from_dict({"tasks": {"lenght": 50}})
      Traceback (most recent call last):
      ...
      gpicl_jax.settings.UserError: unknown setting tasks.lenght; did you mean tasks.length?
    """
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


def _check_learner(config: Config) -> None:
    model, learner = config.model, config.learner
    if learner.name == IN_CONTEXT and model.name in ROW_MODELS:
        raise UserError(
            f"model.name = {model.name!r} sees one example alone and cannot learn in context; "
            f"give learner.name = {', '.join(map(repr, MLP_LEARNERS))}, or another model"
        )
    if learner.name != IN_CONTEXT and model.name != "mlp" and (learner.name != "maml" or model.name not in CONV_MODELS):
        models = ROW_MODELS if learner.name == "maml" else ("mlp",)
        raise UserError(
            f"learner.name = {learner.name!r} needs model.name = {' or '.join(map(repr, models))}, got {model.name!r}; "
            "change one of them"
        )
    _check_equivariant(model)
    if model.num_layers == 0 and model.name != "mlp":
        raise UserError(f"model.num_layers = 0; a {model.name} needs at least 1 (only an mlp can do without hidden layers)")
    if model.layout != "shifted" and model.name != "transformer":
        raise UserError(f"model.layout = {model.layout!r} is the transformer's; model.name = {model.name!r} takes 'shifted'")
    if model.positions != "learned" and (model.name != "transformer" or model.layout == CONTEXT_QUERY):
        raise UserError(
            f"model.positions = {model.positions!r} is for model.name = 'transformer' with a layout that knows an order, got "
            f"{model.name!r} with {model.layout!r}; leave it out"
        )
    if model.positions == "rope" and model.head_size % 2:
        raise UserError(f"model.positions = 'rope' turns pairs of numbers; model.head_size = {model.head_size} is odd")
    if model.layout == CONTEXT_QUERY and model.smear_keys:
        raise UserError(
            f"model.smear_keys = true mixes each key with the one before it, but model.layout = {CONTEXT_QUERY!r} knows no "
            "order; set it to false"
        )


def _check_equivariant(model: ModelConfig) -> None:
    """Refuses what a model without tokens and order would ignore."""
    unused = {"layout": "tokens", "label_scale": "tokens", "smear_keys": "order of keys", "positions": "choice of positions"}
    for name, lacks in unused.items() if model.name in (EQUIVARIANT, *EQUIVARIANT_ABLATIONS) else ():
        if (value := getattr(model, name)) != getattr(ModelConfig(), name):
            raise UserError(f"model.{name} = {value!r}, but model.name = {model.name!r} has no {lacks}; leave {name} out")


def _check_few_shot(config: Config) -> None:
    model, learner, tasks = config.model, config.learner, config.tasks
    context = tasks.num_context
    if context and learner.name != "maml" and (learner.name != IN_CONTEXT or not has_queries(model)):
        raise UserError(
            f"tasks.num_context = {context} makes queries, which learn from the context alone; give learner.name = 'maml', "
            f"model.layout = {CONTEXT_QUERY!r} or model.name = {EQUIVARIANT!r}"
        )
    if not context and (model.name == "few_shot_conv" or learner.inner_batch or learner.num_queries or learner.squash):
        what = "learner.inner_batch, num_queries or squash"
        if model.name == "few_shot_conv":
            what = "model.name = 'few_shot_conv'"
        raise UserError(f"{what} needs a context of one size; set tasks.num_context")
    if learner.inner_batch > context:
        raise UserError(f"learner.inner_batch = {learner.inner_batch}, but tasks.num_context = {context}; lower it")
    if learner.num_queries > tasks.length - context:
        raise UserError(
            f"learner.num_queries = {learner.num_queries}, but an episode has {tasks.length - context} queries; lower it"
        )
    if (learner.squash or model.name == "study_conv") and tasks.classes_per_task != 2:
        what = "learner.squash = true" if learner.squash else "model.name = 'study_conv'"
        raise UserError(f"{what} is for two classes; set tasks.classes_per_task = 2, not {tasks.classes_per_task}")
    if model.name == "study_conv" and config.data.channels != 1:
        raise UserError("model.name = 'study_conv' is for grey images; set data.channels = 1")
    if model.name == "study_conv" and config.data.size < (fewest := STUDY_CONV_PIXELS[model.padding]):
        padded = "" if model.padding == "SAME" else ", or model.padding = 'SAME'"
        raise UserError(
            f"data.size = {config.data.size} is too small for model.name = 'study_conv' with model.padding = "
            f"{model.padding!r}; give {fewest} or more{padded}"
        )
    if model.name in CONV_MODELS and config.data.features:
        raise UserError(f"model.name = {model.name!r} is for images, and data.features = {config.data.features} are none")
    if model.name in CONV_MODELS and model.dtype != "float32":
        raise UserError(f"model.dtype = {model.dtype!r}, but model.name = {model.name!r} is in float32 alone; leave dtype out")


def _check_together(config: Config) -> None:
    _check_learner(config)
    _check_few_shot(config)
    train, evaluation, data = config.train, config.eval, config.data
    if not data.train or len(set(map(short_name, data.train))) < len(data.train):
        raise UserError(f"data.train = {list(data.train)}; expected one or more base datasets of different names")
    if data.weights and len(data.weights) != len(data.train):
        raise UserError(f"data.weights has {len(data.weights)} numbers for {len(data.train)} base datasets; give one for each")
    tasks = config.tasks
    if tasks.entries == GRAM and config.model.name not in GRAM_MODELS:
        raise UserError(
            f"tasks.entries = {GRAM!r} draws the Gram matrix of an episode's inputs and no inputs, which model.name = "
            f"{config.model.name!r} needs; give 'normal' or 'integer', or model.name = {EQUIVARIANT!r}"
        )
    if tasks.entries == GRAM and (tasks.num_tasks != INFINITE or tasks.sequences_per_task > 1):
        raise UserError(
            f"tasks.entries = 'gram' is for tasks that are used once: tasks.num_tasks = '{INFINITE}' and "
            f"tasks.sequences_per_task = 1, got {tasks.num_tasks!r} and {tasks.sequences_per_task}; "
            "change them, or give 'normal' or 'integer'"
        )
    for name in ("clutter", "feature_scales"):
        value = getattr(tasks, name)
        if value and tasks.entries in ("integer", IDENTITY):
            raise UserError(
                f"tasks.{name} = {value:g} is for tasks.entries normal or gram, got {tasks.entries!r}; "
                "leave it out, or change entries"
            )
        if value and tasks.num_tasks != INFINITE:  # a seen task would be another one on other images
            raise UserError(
                f"tasks.{name} = {value:g} is for tasks.num_tasks = '{INFINITE}', got {tasks.num_tasks}; leave it out, or "
                "change num_tasks"
            )
    for name, steps in (("train.steps", train.steps), ("train.validate_every", train.validate_every)):
        if steps % train.chunk:
            raise UserError(f"{name} = {steps} is not a multiple of train.chunk = {train.chunk}; change one of them")
    if config.tasks.tasks_per_step % train.accumulate:
        raise UserError(
            f"tasks.tasks_per_step = {config.tasks.tasks_per_step} is not a multiple of train.accumulate = {train.accumulate}; "
            "change one of them"
        )
    if train.remat_blocks and config.model.name not in ATTENTION_MODELS:
        raise UserError(
            f"train.remat_blocks = true, but model.name = {config.model.name!r} has no blocks; only "
            f"{', '.join(ATTENTION_MODELS)} have"
        )
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
