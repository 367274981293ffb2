"""`gpicl settings`: what a config can say, made from the classes themselves."""

import dataclasses
import typing
from collections.abc import Iterable

from gpicl_jax.registry import ROOMS, find, names, settings_of
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError, nearest


def settings_page(name: str = "") -> str:
    """Returns a line for each section, or for each setting of what `name` names: a section, `model`, `model.lstm`.

    Raises:
      UserError: there is nothing of this name.

    Example:
      >>> print(settings_page("log"))
      log.to  str, '': where metrics go beside metrics.jsonl; one of '', 'tensorboard', 'wandb'
    """
    sections = {field.name: field.type for field in dataclasses.fields(Config)}
    room, _, kind = name.partition(".")
    if not name:
        return "\n".join(_line_of_section(section, kind) for section, kind in sections.items())
    if room not in sections or (kind and room not in ROOMS):
        raise UserError(f"no section {name!r}{nearest(name, [*sections, *(f'{each}.NAME' for each in ROOMS)])}")
    if room not in ROOMS:
        return _lines(room, dataclasses.fields(sections[room]))
    if not kind:
        return "\n".join(f"{room}.name = {each!r:<42} {_about(find(room, each))}" for each in names(room))
    found = find(room, kind)
    return f"{room}.name = {kind!r}: {_about(found)}\n{_lines(room, settings_of(found).values())}".rstrip()


def _line_of_section(section: str, kind: type) -> str:
    if section in ROOMS:
        return f"[{section}]  name, one of {', '.join(names(section))}; gpicl settings {section}.NAME says more"
    return f"[{section}]  {', '.join(field.name for field in dataclasses.fields(kind))}"


def _lines(section: str, fields: Iterable[dataclasses.Field]) -> str:
    fields = list(fields)
    width = max((len(f"{section}.{field.name}") for field in fields), default=0)
    return "\n".join(f"{section + '.' + field.name:<{width}}  {_described(field)}" for field in fields)


def _described(field: dataclasses.Field) -> str:
    limits = field.metadata
    kind = field.type.__name__ if isinstance(field.type, type) and not typing.get_args(field.type) else str(field.type)
    words = {"minimum": "at least", "maximum": "at most", "above": "above", "below": "below"}
    bounds = [f"{word} {limits[key]:g}" for key, word in words.items() if key in limits]
    bounds += [f"one of {', '.join(map(repr, limits['choices']))}"] if "choices" in limits else []
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"{kind}, {default!r}: {'; '.join([limits['about'], *bounds])}"


def _about(kind: type) -> str:
    """The first sentence of its docstring."""
    return " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())
