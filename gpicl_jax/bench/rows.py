"""What a benchmark finds: tidy rows, the tables they are printed as, the files they are written to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from gpicl_jax.bench.measure import Side, Spread, Timings, spread
from gpicl_jax.figures import benchmarks
from gpicl_jax.figures.style import write_png
from gpicl_jax.files import write_atomic

_FIGURE = "benchmarks.png"


class Row(NamedTuple):
    """One number, or the median of several rounds with its 10th and 90th percentile.

    Attributes:
      table: the table it belongs to.
      side: what was measured.
      quantity: with its unit; `× NAME` is how many times as fast as the side NAME, round by round.
      median, low, high: see `measure.Spread`; all equal for a number that has no spread.
    """

    table: str
    side: str
    quantity: str
    median: float
    low: float
    high: float


def number(table: str, side: str, quantity: str, value: float) -> Row:
    """A row for a number that was not repeated."""
    return Row(table, side, quantity, float(value), float(value), float(value))


def timing_rows(
    table: str,
    sides: Sequence[Side],
    timings: Timings,
    unit: str,
    against: Sequence[str] = (),
    *,
    case: str = "",
    per_unit: bool = False,
) -> list[Row]:
    """Of every side: its rate, how many times as fast as each side of `against` it is, and what its program costs.

    Args:
      table: title.
      sides: in the order of the table.
      timings: from `by_turns`.
      unit: `tasks/s`; or `µs/episode`, where `per_unit` asks for the time of a unit in place of a rate.
      against: names of the sides to compare with; those are not compared themselves.
      case: end of the sides' names that the table's title tells already.
      per_unit: see `unit`.
    """
    rows = []
    for side in sides:
        label, seconds_R = side.name.removesuffix(case), timings[side.name]
        rows.append(Row(table, label, unit, *spread(1e6 * seconds_R if per_unit else 1 / seconds_R)))
        if side.name not in against:
            rows += [Row(table, label, f"× {name.removesuffix(case)}", *spread(timings[name] / seconds_R)) for name in against]
        if side.compiled:
            rows.append(number(table, label, "compile s", side.compiled.seconds))
            rows.append(number(table, label, "temporaries MB", side.compiled.temp_bytes / 1e6))
    return rows


def text(rows: Sequence[Row]) -> str:
    """The rows as aligned tables: a line for each side, a column for each quantity.

    Example:
      >>> print(text([number("speed", "a", "tasks/s", 3), number("speed", "b", "tasks/s", 1250)]))
      speed
        side   tasks/s
        a            3
        b        1,250
    """
    blocks = []
    for title in dict.fromkeys(row.table for row in rows):
        mine = [row for row in rows if row.table == title]
        quantities = list(dict.fromkeys(row.quantity for row in mine))
        cells = {(row.side, row.quantity): _cell(row) for row in mine}
        lines = [["side", *quantities]]
        for side in dict.fromkeys(row.side for row in mine):
            lines.append([side, *(cells.get((side, quantity), "") for quantity in quantities)])
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        blocks.append(title)
        for first, *rest in lines:
            others = "".join(f"   {cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
            blocks.append(f"  {first:<{widths[0]}}{others}")
    return "\n".join(blocks)


def _cell(row: Spread | Row) -> str:
    if row.low == row.high:
        return _short(row.median)
    return f"{_short(row.median)} ({_short(row.low)}–{_short(row.high)})"


def _short(value: float) -> str:
    """Three figures, and no exponent below a million.

    Example:
      >>> _short(0.012345), _short(3.14159), _short(1234.5), _short(2.5e9)
      ('0.0123', '3.14', '1,234', '2.5e+09')
    """
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def write_json(file: Path, name: str, record: dict[str, Any], rows: Sequence[Row]) -> None:
    """All that is known of a measurement: `benchmark`, the machine's record, and `rows`."""
    content = {"benchmark": name, **record, "rows": [row._asdict() for row in rows]}
    write_atomic(file, lambda opened: opened.write(json.dumps(content, indent=2, ensure_ascii=False).encode()))


def write_results(folder: Path, name: str, record: dict[str, Any], rows: Sequence[Row]) -> None:
    """`NAME.csv` anew in `folder`, and its figure from all the tables there."""
    frame = pd.DataFrame(rows)
    versions = record["packages"]
    for column in ("jax", "torch"):
        frame[column] = versions.get(column) or "–"
    frame["device"], frame["threads"] = record["devices"][0], record["threads"]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{name}.csv", lambda opened: frame.to_csv(opened, index=False))
    tables = pd.concat([pd.read_csv(file) for file in sorted(folder.glob("*.csv"))], ignore_index=True)
    write_png(folder / _FIGURE, benchmarks, tables)
