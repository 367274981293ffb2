"""What one setting is: its default, its meaning, its limits, and the one-line error of a wrong value."""

import dataclasses
import difflib
import typing
from typing import Any

_LARGEST = 3.4e38  # of float32


class UserError(ValueError):
    """A mistake of the user: one line that says what was given and what to do."""


def one_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type where it has none. Others are cut at 200 characters."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 or isinstance(error, UserError) else f"{line[:199]}…"


def setting(default: Any, about: str, **limits: Any) -> Any:
    """Returns a dataclass field with its meaning and its limits: `choices`, `minimum`, `maximum`, `above`, `below`.

    A `word` is a string that is allowed beside numbers, e.g. `infinite`. Limits of a list hold for its items. A `traced` number
    is an argument of the compiled program, so that members of a population can differ in it. A resumed run may change a `free`
    setting.
    """
    return dataclasses.field(default=default, metadata={"about": about, **limits})


def nearest(name: str, names: Any, form: str = "{}") -> str:
    """Returns `; did you mean X?` where a name is close to one of `names`, or else all allowed names."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    if close:
        return f"; did you mean {form.format(close[0])}?"
    return f"; allowed: {', '.join(form.format(each) for each in names)}"


def checked(name: str, value: Any, field: dataclasses.Field) -> Any:
    """Returns `value` as the field's type, or raises `UserError`. A list becomes a tuple, and a single item a tuple of one."""
    if typing.get_origin(field.type) is not tuple:
        return _checked_item(name, value, field.type, field.metadata)
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(_checked_item(name, item, typing.get_args(field.type)[0], field.metadata) for item in items)


def _checked_item(name: str, value: Any, kind: type, limits: Any) -> Any:
    word = limits.get("word")
    if word is not None:
        if value == word:
            return value
        if isinstance(value, str):
            raise UserError(
                f"{name} = {value!r}; expected a number from {limits['minimum']} to {limits['maximum']} or {word!r}"
            )
        kind = int
    if kind is float and type(value) is int and abs(value) < _LARGEST:
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{name} = {value!r} is of type {type(value).__name__}; expected {kind.__name__} ({limits['about']})")
    if "choices" in limits and value not in limits["choices"]:
        near = difflib.get_close_matches(str(value), map(str, limits["choices"]), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{name} = {value!r}; allowed: {', '.join(map(repr, limits['choices']))}{hint}")
    if wanted := _out_of_limits(value, limits):
        raise UserError(f"{name} = {value!r}; expected {wanted} ({limits['about']})")
    return value


def _out_of_limits(value: Any, limits: Any) -> str:
    """Returns the limit that `value` breaks, as words for an error, or ''."""
    if isinstance(value, float) and not abs(value) < _LARGEST:
        return "a finite number in float32"
    if "above" in limits and value <= limits["above"]:
        return f"more than {limits['above']}"
    if "below" in limits and value >= limits["below"]:
        return f"less than {limits['below']}"
    if value < limits.get("minimum", value) or value > limits.get("maximum", value):
        return f"at least {limits['minimum']}" + (f" and at most {limits['maximum']}" if "maximum" in limits else "")
    return ""
