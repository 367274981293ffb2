"""A grid of cells: what an experiment trains, which cells share a program, and the CSV of their scores.

The CSV is the record: a cell is done when all its rows are in it. Several processes may add to it, in any order.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gpicl_jax.config import settings_by_name, settings_digest
from gpicl_jax.files import write_atomic
from gpicl_jax.hyper import compiled_part
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError

Row = dict[str, Any]
Key = tuple[str, ...]
_SETTINGS, _ROWS = "settings", "rows"
_ELSEWHERE = "move that file away, or choose another --results-dir"


@dataclass(frozen=True)
class Cell:
    """One learner to train.

    Attributes:
      axes: its place in the grid, a value for each axis. The last axis is `seed`.
      config: its training's config.
    """

    axes: dict[str, Any]
    config: Config

    @property
    def key(self) -> Key:
        """The axes' values, as the CSV holds them."""
        return tuple(map(_text, self.axes.values()))

    @property
    def settings(self) -> str:
        """Eight letters that stand for the settings, from `settings_digest`."""
        return settings_digest(self.config)

    @property
    def record(self) -> dict[str, Any]:
        """The axes, the digest of the settings, and all settings by name, as JSON holds them."""
        return json.loads(
            json.dumps({**self.axes, _SETTINGS: self.settings, "config": settings_by_name(self.config)}, default=str)
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.axes.items())


def digest(text: str) -> str:
    """Returns eight hexadecimal letters that stand for `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def units(cells: Sequence[Cell], together: int) -> list[list[Cell]]:
    """Returns the cells in groups of at most `together` that share a program. A group is a unit of work."""
    groups: dict[Config, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(compiled_part(cell.config), []).append(cell)
    return [group[at : at + together] for group in groups.values() for at in range(0, len(group), together)]


class Table:
    """The CSV of a grid: the axes, `settings`, the measurements, and last `rows`, the cell's number of rows.

    A line that a killed process or a full disk left half-written has no such number. Its cell is trained again.

    Args:
      path: path of the CSV.
      axes: names of the first columns.
      cells: cells of the whole grid. Without cells the table can only be read.
    """

    def __init__(self, path: Path, axes: Sequence[str], cells: Sequence[Cell] = ()) -> None:
        self.path, self._axes, self._cells = path, list(axes), {cell.key: cell for cell in cells}

    def check(self, runs_dir: Path | None = None) -> None:
        """Checks that the CSV, if it exists, is of this grid. It may have more seeds than the grid.

        Args:
          runs_dir: folder of the runs, whose records say which settings differ.

        Raises:
          UserError: it is of another grid, or of other settings.
        """
        header, lines = self._read()
        axes, grid = [*self._axes, _SETTINGS], {key[:-1] for key in self._cells}
        if header and (header[: len(axes)] != axes or header[-1] != _ROWS):
            raise UserError(
                f"{self.path} is of another grid: its columns begin {', '.join(header[: len(axes)])}, and those of this grid "
                f"{', '.join(axes)}; {_ELSEWHERE}"
            )
        for line in lines if grid else ():
            key, cell = self._key(line), self._cells.get(self._key(line))
            there = ", ".join(f"{name} {value}" for name, value in zip(self._axes, key, strict=True))
            if key[:-1] not in grid:
                values = zip(self._axes[:-1], zip(*self._cells, strict=True), strict=False)
                here = "; ".join(f"{name} {', '.join(dict.fromkeys(each))}" for name, each in values)
                raise UserError(f"{self.path} is of another grid: it has {there}, and this grid has {here}; {_ELSEWHERE}")
            if cell and cell.settings != line[_SETTINGS]:
                difference = _difference(cell, line[_SETTINGS], runs_dir)
                raise UserError(f"{self.path} is of other settings: {there} was made with {difference}; {_ELSEWHERE}")

    def rows(self) -> dict[Key, list[dict[str, str]]]:
        """Returns the rows of all finished cells, as they are written, by the cell's key."""
        found: dict[Key, list[dict[str, str]]] = {}
        for line in self._read()[1]:
            found.setdefault(self._key(line), []).append(line)
        return {key: lines for key, lines in found.items() if all(int(line[_ROWS]) == len(lines) for line in lines)}

    @property
    def broken(self) -> int:
        """Number of lines that belong to no whole cell."""
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return len(lines) - 1 - sum(map(len, self.rows().values()))

    def frame(self) -> pd.DataFrame:
        """Returns the rows of all finished cells."""
        rows = [row for rows in self.rows().values() for row in rows]
        types = {_SETTINGS: str, "commit": str}
        return pd.read_csv(io.StringIO(_as_csv(list(rows[0]), rows)), dtype=types) if rows else pd.DataFrame()

    def add(self, found: Iterable[tuple[Cell, list[Row]]]) -> None:
        """Adds the rows of some cells to the CSV, and drops rows of cells that are not whole. The caller must hold a lock."""
        rows = self.rows()
        for cell, new in found:
            whole = [{**cell.axes, _SETTINGS: cell.settings, **row, _ROWS: len(new)} for row in new]
            rows[cell.key] = [{name: _text(value) for name, value in row.items()} for row in whole]
        places = {key: place for place, key in enumerate(self._cells)}  # seeds beyond the grid come last
        ordered = [row for key in sorted(rows, key=lambda key: (places.get(key, len(places)), key)) for row in rows[key]]
        names = dict.fromkeys(name for lines in rows.values() for row in lines for name in row if name != _ROWS)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, lambda file: file.write(_as_csv([*names, _ROWS], ordered).encode()))

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Returns the header, and the lines that have a value for each of its columns."""
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        header, *lines = [next(csv.reader([line]), []) for line in text.splitlines()] or [[]]
        whole = [line for line in lines if len(line) == len(header) and line[-1].isdigit()]
        return header, [dict(zip(header, line, strict=True)) for line in whole]

    def _key(self, line: dict[str, str]) -> Key:
        return tuple(line[name] for name in self._axes)


def _difference(cell: Cell, settings: str, runs_dir: Path | None) -> str:
    """Returns which settings of a row differ from those of `cell`, from the record of its run if that exists."""
    here = cell.record["config"]
    for path in sorted(runs_dir.glob("*/members.json")) if runs_dir else ():
        for member in RunFolder(path.parent).read_json(path.name).get("members", ()):
            if member["settings"] == settings and "config" in member:
                there = member["config"]
                names = [name for name in there | here if there.get(name) != here.get(name) and name != "data.dir"]
                return ", ".join(f"{name} = {there.get(name)!r} ({here.get(name)!r} here)" for name in names)
    which = f"no run in {runs_dir} says which settings differ" if runs_dir else "which settings differ is not recorded"
    return f"settings of digest {settings} ({cell.settings} here; {which})"


def _as_csv(names: Sequence[str], rows: Sequence[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
