"""`gpicl settings`: all settings of a config, from the classes themselves."""

import dataclasses
import typing
from collections.abc import Iterable

from gpicl_jax.registry import ROOMS, about, find, names, settings_of
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError, nearest


def settings_page(name: str = "") -> str:
    """Returns a line for each section, or for each setting of a section, room or class: `log`, `model`, `model.lstm`, `lstm`.

    Raises:
      UserError: nothing has this name.

    Example:
      >>> print(settings_page("log"))
      log.to  str, '': where metrics go beside metrics.jsonl; one of '', 'tensorboard', 'wandb'
    """
    sections = {section: type(found) for section, found in Config().sections.items()}
    rooms = (*ROOMS, "experiment")
    if not name:
        return "\n".join(_line_of(section, sections) for section in sections | ROOMS)
    if name in rooms:
        return "\n".join(f"{name} {each!r:<42} {about(find(name, each))}" for each in names(name))
    if name in sections:
        return _lines(name, dataclasses.fields(sections[name]))
    room, _, kind = name.partition(".")
    found = [(room, kind)] if room in rooms else [(each, name) for each in rooms if name in names(each)]
    if not found:
        raise UserError(f"no section {name!r}{nearest(name, [*sections, *(f'{each}.NAME' for each in rooms)])}")
    return "\n\n".join(_page(*each) for each in found)


def _page(room: str, name: str) -> str:
    found = find(room, name)
    section = name if room == "source" else room
    return f"{room} {name!r}: {about(found)}\n{_lines(section, settings_of(found).values())}".rstrip()


def _line_of(section: str, sections: dict[str, type]) -> str:
    if section not in ROOMS:
        return f"[{section}]  {', '.join(field.name for field in dataclasses.fields(sections[section]))}"
    told = f"{', '.join(names(section))}; gpicl settings {section}.NAME says more"
    return f"[{section}]  name, one of {told}" if section in sections else f"data.train, {section}s: {told}"


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
