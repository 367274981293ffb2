"""The settings of a run, read from TOML and checked before anything is compiled."""

import dataclasses
import hashlib
import json
import os
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from gpicl_jax.registry import alternatives, find, names, section_class, settings_of
from gpicl_jax.sections import Config, absolute_name, short_name
from gpicl_jax.settings import UserError, checked, nearest

_SECTIONS = {field.name: field.type for field in dataclasses.fields(Config) if field.name != "sources"}
_NAMED = ("model", "learner", "optimizer")
_DEFAULTS = {"model": "transformer", "optimizer": "adam"}  # of learners each model has its own


def load_config(source: str, overrides: tuple[str, ...] = ()) -> Config:
    """Reads a TOML file or a config of the package, applies `--section.key=value`, and checks all settings.

    A file whose first line is `base = "OTHER"` starts from the settings of that config. A file or an override may name another
    model, learner or optimiser than its base does. The settings that both classes have then stay.

    Args:
      source: a path that ends in .toml, or a name such as `digits`.
      overrides: strings `--section.key=value`. A value is read as TOML, or else as plain text.

    Raises:
      UserError: no such file, not TOML, an unknown key, a wrong type, an impossible value.

    Example:
      >>> load_config("digits", ("--train.steps=200",)).train.steps
      200
    """
    given: dict[str, Any] = {}
    for override in overrides:
        section, key, value = _parse_override(override)
        given.setdefault(section, {})[key] = value
    return config_from_dict(*_layers(source), given)


def kept_settings(source: str, overrides: tuple[str, ...] = ()) -> list[str]:
    """Returns a line for each override that names another class than the config: which settings of the config stay.

    Example:
      >>> kept_settings("digits", ("--model.name=lstm", "--optimizer.name=adam"))
      ['model.name=lstm keeps model.width = 16 of digits']
    """
    values: dict[str, Any] = {}
    for layer in _layers(source):
        _add(values, layer)
    given = {(section, key): value for section, key, value in map(_parse_override, overrides)}
    lines = []
    for (section, key), name in given.items():
        there = values.get(section, {})
        if section in _NAMED and key == "name" and name != there.get("name", _DEFAULTS.get(section)):
            own = [each for each in settings_of(find(section, name)) if each in there and (section, each) not in given]
            told = ", ".join(f"{section}.{each} = {json.dumps(there[each], ensure_ascii=False)}" for each in own)
            lines += [f"{section}.name={name} keeps {told} of {source}"] if told else []
    return lines


def packaged_configs(pattern: str = "**/*") -> list[str]:
    """Returns the names of the configs in the package, such as `digits` and, in folders, `comparison/laptop/lstm`.

    Example:
      >>> packaged_configs("*")
      ['digits', 'digits_transformer']
    """
    folder = resources.files("gpicl_jax") / "configs"
    with resources.as_file(folder) as path:
        return sorted(str(file.relative_to(path).with_suffix("")) for file in path.glob(f"{pattern}.toml"))


def _layers(source: str) -> list[dict[str, Any]]:
    """Returns the values of a file, after those of its base."""
    values = _parse_toml(source)
    base = values.pop("base", None)
    if base is None:
        return [values]
    if not isinstance(base, str):
        raise UserError(f"{source}: base = {base!r}; expected the name of a config, or a path that ends in .toml")
    if base.endswith(".toml"):
        base = str(Path(source).parent / base)
    below = _parse_toml(base)
    if "base" in below:
        raise UserError(f"{source}: its base {base} has a base too; one is allowed")
    return [below, values]


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
    from gpicl_jax.old_form import renewed

    return renewed(values)


def _parse_override(text: str) -> tuple[str, str, Any]:
    match = re.fullmatch(r"--(\w+)\.(\w+)=(.*)", text, flags=re.DOTALL)
    if match is None:
        raise UserError(f"unknown argument '{text}'; settings are given as --section.key=value, e.g. --train.steps=500")
    section, key, value = match.groups()
    try:
        return section, key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, value


def config_from_dict(*layers: dict[str, Any]) -> Config:
    """Builds and checks a `Config` from nested dictionaries. Later ones replace values of earlier ones.

    Raises:
      UserError: at the first fault.

    Example:
      >>> config_from_dict({"tasks": {"lenght": 50}})
      Traceback (most recent call last):
      ...
      gpicl_jax.settings.UserError: unknown setting tasks.lenght; did you mean tasks.length?
    """
    values: dict[str, Any] = {}
    for layer in layers:
        _add(values, layer)
    config = Config(**{name: _section(name, values) for name in _SECTIONS})
    sources = [name for name in config.data.train if name in names("source") and settings_of(find("source", name))]
    for name in values:
        if name not in _SECTIONS and name not in sources:
            raise UserError(f"[{name}] holds settings of a source, but data.train = {list(config.data.train)}; leave it out")
    config = dataclasses.replace(config, sources=tuple(_section(name, values) for name in sources))
    config.check()
    data = config.data  # a run is evaluated from other folders too
    folder = os.path.abspath(os.path.expanduser(data.dir)) if data.dir else ""
    data = dataclasses.replace(data, train=tuple(map(absolute_name, data.train)), dir=folder)
    return dataclasses.replace(config, data=data)


def _add(values: dict[str, Any], layer: dict[str, Any]) -> None:
    """Adds a layer to `values`. Where it names another class, the settings that the new class has stay, and the others go."""
    for name, entries in layer.items():
        if name not in _SECTIONS and name not in names("source"):
            hint = nearest(name, _SECTIONS, "[{}]")
            raise UserError(f"unknown section [{name}]{hint} (a source in a file of yours needs --import FILE.py)")
        if not isinstance(entries, dict):
            raise UserError(f"{name} = {entries!r} stands outside a section; expected a section [{name}] with settings")
        there = values.get(name, {})
        if there and name in _NAMED and "name" in entries:
            _section(name, values)  # no fault of theirs may pass unseen
            known = settings_of(find(name, entries["name"]))
            there = {key: value for key, value in there.items() if key in known}
        values[name] = {**there, **entries}


def _section(name: str, values: dict[str, Any]) -> Any:
    """Returns the section `name`, as an object of the class that it names."""
    entries = values.get(name, {})
    if name in _NAMED:
        kind = section_class(name, _class_name(name, values))
    else:
        kind = _SECTIONS[name] if name in _SECTIONS else section_class("source", name)
    fields = {field.name: field for field in dataclasses.fields(kind) if name in _SECTIONS or field.name != "name"}
    for key in entries:
        if key not in fields:
            told = f"{name}.name = {kind().name!r} has no" if name in _NAMED else "unknown"
            hint = nearest(key, [field for field in fields if field != "name"], name + ".{}")
            raise UserError(f"{told} setting {name}.{key}{hint}")
    return kind(**{key: checked(f"{name}.{key}", value, fields[key]) for key, value in entries.items()})


def _class_name(room: str, values: dict[str, Any]) -> str:
    name = values.get(room, {}).get("name", _DEFAULTS.get(room))
    if name is None:
        model = _class_name("model", values)
        name = find("model", model).learner
        if not name:
            able = alternatives("learner", lambda each: issubclass(find("model", model), each.takes))
            raise UserError(
                f"model.name = {model!r} sees one example alone and cannot learn in context; give learner.name = {able}, or "
                "another model"
            )
    if not isinstance(name, str):
        raise UserError(f"{room}.name = {name!r} is of type {type(name).__name__}; expected str (which {room})")
    return name


def to_toml(config: Config) -> str:
    """Returns all of `config`, defaults included, as TOML text from which `load_config` makes an equal config."""
    lines = []
    for section, entries in as_dict(config).items():
        lines.append(f"[{section}]" if section.isidentifier() else f"[{json.dumps(section)}]")
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entries.items()]
        lines.append("")
    return "\n".join(lines)


def as_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Returns the sections of `config` as dictionaries, from which `config_from_dict` makes an equal config."""
    found = {name: dataclasses.asdict(section) for name, section in config.sections.items()}
    for source in config.sources:
        del found[source.name]["name"]
    return found


def settings_by_name(config: Config) -> dict[str, Any]:
    """Returns all settings of `config` by their full names, e.g. `model.width`."""
    return {f"{section}.{key}": value for section, entries in as_dict(config).items() for key, value in entries.items()}


def changed_settings(old: Config, new: Config) -> dict[str, str]:
    """Returns the settings that differ, by name, with both values: `model.width (64 there, 128 given)`.

    A setting that one of the classes lacks is `none`.
    """
    before, after = settings_by_name(old), settings_by_name(new)
    return {
        name: f"{name} ({before.get(name, 'none')!r} there, {after.get(name, 'none')!r} given)"
        for name in before | after
        if before.get(name) != after.get(name)
    }


def free_settings(config: Config) -> set[str]:
    """Returns the names of the settings that a resumed run may change. They change its weights by rounding at most."""
    return {f"{section}.{field.name}" for section, field, _ in config.each_setting() if field.metadata.get("free")}


def settings_digest(config: Config) -> str:
    """Returns eight letters that stand for the names of the classes and all settings that are not the defaults.

    The folders of the data do not count. New settings of a later version and new texts do not change the letters.

    Example:
      >>> len(settings_digest(load_config("digits")))
      8
    """
    values = {
        f"{section}.{field.name}": value
        for section, field, value in config.each_setting()
        if field.name == "name" or value != field.default
    }
    values.pop("data.dir", None)
    values["data.train"] = list(map(short_name, config.data.train))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
