"""`gpicl settings`: what a config can say, made from the classes themselves."""

import dataclasses
import typing
from collections.abc import Iterable

from gpicl_jax.registry import ROOMS, about, find, names, settings_of
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
    sections = {section: type(found) for section, found in Config().sections.items()}
    room, _, kind = name.partition(".")
    if not name:
        return "\n".join(_line_of(section, sections) for section in {**sections, **ROOMS})
    if room in sections and room not in ROOMS and not kind:
        return _lines(room, dataclasses.fields(sections[room]))
    if room not in ROOMS:
        raise UserError(f"no section {name!r}{nearest(name, [*sections, *(f'{each}.NAME' for each in ROOMS)])}")
    if not kind:
        return "\n".join(f"{room} {each!r:<42} {about(find(room, each))}" for each in names(room))
    found = find(room, kind)
    settings = settings_of(found).values()
    return f"{room} {kind!r}: {about(found)}\n{_lines(room if room in sections else kind, settings)}".rstrip()


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
