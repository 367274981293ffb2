"""Names to classes: a class that a config can name registers itself and has its own settings.

The classes of a room are in its folder. The first look-up of a name imports all files of the folder. It also imports, from
each folder of `experiments/`, the file of the room's name: `model.py` has models, `learner.py` learners. A file from elsewhere
registers its classes when it is imported: `gpicl train … --import ./mine.py`.
"""

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import shlex
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpicl_jax.settings import UserError, checked, nearest, one_line

ROOMS = {
    "model": "gpicl_jax.models",
    "learner": "gpicl_jax.learners",
    "optimizer": "gpicl_jax.optimizers",
    "dataset": "gpicl_jax.data",
    "source": "gpicl_jax.tasks.sources",
}
_FOLDERS = {**ROOMS, "experiment": "gpicl_jax.experiments"}  # the room that no config names
_KNOWN: dict[str, dict[str, type]] = {room: {} for room in _FOLDERS}
_IMPORTED: list[Path] = []


def register(name: str) -> Any:
    """Returns a decorator that registers a class under `name`, in the room of its base class.

    Fields that `setting` makes are the settings of the class. The program gives all other fields, which the base class lists.

    Raises:
      UserError: the class has no room, lacks a method that its room needs, has a field that nobody gives, or the name is taken.

    Example:
      >>> register("mine")(object)
      Traceback (most recent call last):
      ...
      gpicl_jax.settings.UserError: cannot register 'mine': builtins.object inherits from no base class of gpicl_jax
    """

    def keep(kind: type) -> type:
        wrong = _fault(kind, name)
        if wrong:
            raise UserError(f"cannot register {name!r}: {_place(kind)} {wrong}")
        there = _KNOWN[kind.room].setdefault(name, kind)
        if there is not kind:
            raise UserError(f"cannot register {name!r}: {_place(there)} and {_place(kind)} have this name; rename one")
        return kind

    return keep


def _fault(kind: type, name: str) -> str:
    """Returns what is wrong with a class, or ''."""
    room = getattr(kind, "room", None)
    if room not in _FOLDERS:
        return "inherits from no base class of gpicl_jax"
    base = next(each for each in reversed(kind.__mro__) if getattr(each, "room", None) == room)
    if name in getattr(base, "taken", ()):
        return f"cannot be a {room} of this name, which is a section of every config; rename it"
    lacking = [
        each for each in base.needs if inspect.getattr_static(kind, each, None) is inspect.getattr_static(base, each, None)
    ]
    if lacking:
        return f"has no {', '.join(lacking)}, which each {room} needs"
    return _fault_of_fields(kind, base)


def _fault_of_fields(kind: type, base: Any) -> str:
    if any(isinstance(value, dataclasses.Field) for value in vars(kind).values()):
        return "has a setting(…) but is no dataclass; write @dataclasses.dataclass(frozen=True) between @register and class"
    for field in settings_of(kind).values():
        if field.name == "name":
            return "has a setting called name, which is that of the class; rename it"
        try:
            checked(f"the default of {field.name}", field.default, field)
        except UserError as error:
            return f"has a wrong setting: {error}"
    if "open" in vars(kind) or not dataclasses.is_dataclass(kind):  # it makes itself
        return ""
    if getattr(kind, "has_splits", False):
        return "has splits, but no open(split, …) that tells them apart; write it"
    for field in dataclasses.fields(kind):
        if dataclasses.MISSING is field.default is field.default_factory and field.name not in base.given:
            return f"has a field {field.name} that nobody gives; make it a setting(…), or use {', '.join(base.given)}"
    return ""


def _place(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def import_file(path: Path) -> None:
    """Imports a Python file of the user's, once. The file registers its classes.

    Raises:
      UserError: no such file, or it cannot be imported.
    """
    if not path.is_file():
        raise UserError(f"--import {path}: no such file")
    if path.absolute() in _IMPORTED:
        return
    name = f"gpicl_import_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--import {path}: expected a Python file, whose name ends in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise UserError(f"--import {path}: {error}") from None
    except SystemExit:
        raise UserError(f"--import {path}: it ends Python by sys.exit; do so under if __name__ == '__main__'") from None
    except Exception as error:
        raise UserError(f"--import {path}: {type(error).__name__}: {one_line(error)}") from error
    _IMPORTED.append(path.absolute())


def import_options() -> str:
    """Returns the `--import` options for a command that needs the same files, each after a space."""
    return "".join(f" --import {shlex.quote(str(path))}" for path in _IMPORTED)


@functools.cache
def _import_all(room: str) -> None:
    package = importlib.import_module(_FOLDERS[room])
    for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for path in sorted(Path(__file__).parent.glob(f"experiments/*/{room}.py")):
        importlib.import_module(f"{_FOLDERS['experiment']}.{path.parent.name}.{room}")


def names(room: str) -> list[str]:
    """Returns all names of a room, in the order of the alphabet."""
    _import_all(room)
    return sorted(_KNOWN[room])


def find(room: str, name: str) -> Any:
    """Returns the class that `name` names.

    Raises:
      UserError: no class has this name.
    """
    if not isinstance(name, str) or (name not in _KNOWN[room] and name not in names(room)):
        hint = nearest(str(name), names(room))
        given = f"{room}.name = {name!r}" if room in ROOMS else f"no {room} '{name}'"
        raise UserError(f"{given}{hint} (a class in a file of yours needs --import FILE.py)")
    return _KNOWN[room][name]


def alternatives(room: str, fits: Callable[[Any], bool]) -> str:
    """Returns the names of the classes that fit, for an error: `'maml' or 'sgd'`. Those of an experiment are left out."""
    general = (name for name in names(room) if not find(room, name).__module__.startswith(_FOLDERS["experiment"]))
    return " or ".join(repr(name) for name in general if fits(find(room, name)))


def about(kind: type) -> str:
    """Returns the first paragraph of the docstring of `kind`, on one line."""
    return " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())


def settings_of(kind: type) -> dict[str, dataclasses.Field]:
    """Returns the settings of a class by name, with resolved types."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    found = {field.name: field for field in fields if "about" in field.metadata}
    if any(isinstance(field.type, str) for field in found.values()):  # its file has `from __future__ import annotations`
        types = typing.get_type_hints(kind)
        for name, field in found.items():
            field.type = types[name]
    return found


@functools.cache
def section_class(room: str, name: str) -> Any:
    """Returns a frozen dataclass with the settings of the class `name`. Its first field is `name`."""
    kind = find(room, name)
    about = dataclasses.field(default=name, metadata={"about": f"which {room}"})
    fields = [("name", str, about)]
    for each in settings_of(kind).values():
        fields.append((each.name, each.type, dataclasses.field(default=each.default, metadata=each.metadata)))
    return dataclasses.make_dataclass(f"{kind.__name__}Settings", fields, frozen=True, kw_only=True)


def make(room: str, section: Any, **given: Any) -> Any:
    """Returns the object that a section describes. It gets those of `given` that its class has fields for."""
    kind = find(room, section.name)
    fields = {field.name for field in dataclasses.fields(kind)}
    settings = {field.name: getattr(section, field.name) for field in dataclasses.fields(section) if field.name != "name"}
    return kind(**{name: value for name, value in given.items() if name in fields}, **settings)
