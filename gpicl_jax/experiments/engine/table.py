"""A grid of cells: what an experiment trains, which cells share a program, and the CSV that says what is done.

The CSV is the record: a cell is done when all its rows are there. Several processes may add to it, in any order.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gpicl_jax.config import settings_digest
from gpicl_jax.files import write_atomic
from gpicl_jax.hyper import compiled_part
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError

Row = dict[str, Any]
_SETTINGS, _ROWS = "settings", "rows"


@dataclass(frozen=True)
class Cell:
    """One learner that is trained.

    Attributes:
      axes: where it stands in the grid, a value for each axis; `seed` is one of them.
      config: of its training.
    """

    axes: dict[str, Any]
    config: Config

    @property
    def key(self) -> tuple[str, ...]:
        """The axes' values as the CSV holds them."""
        return tuple(map(_text, self.axes.values()))

    @property
    def settings(self) -> str:
        """Eight letters that stand for the settings; see `settings_digest`."""
        return settings_digest(self.config)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.axes.items())


def digest(text: str) -> str:
    """Eight hexadecimal letters that stand for `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def units(cells: Sequence[Cell], together: int) -> list[list[Cell]]:
    """The cells in groups that share a program, each of at most `together`: the units of work of a process."""
    groups: dict[Config, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(compiled_part(cell.config), []).append(cell)
    return [group[at : at + together] for group in groups.values() for at in range(0, len(group), together)]


class Table:
    """The CSV of a grid: the axes, `settings`, what was measured, and last `rows`, how many the cell has.

    A line that a killed process or a full disk left half-written has no such number, and its cell is done again.

    Args:
      path: of the CSV.
      axes: names of the first columns.
      cells: of the whole grid; without any, what is there can only be read.
    """

    def __init__(self, path: Path, axes: Sequence[str], cells: Sequence[Cell] = ()) -> None:
        self.path, self._axes, self._cells = path, tuple(axes), {cell.key: cell for cell in cells}

    def check(self) -> None:
        """Whether the CSV that is there, if any, is of this grid; more seeds than the grid has are welcome.

        Raises:
          UserError: it is of another.
        """
        header, lines = self._read()
        axes = [*self._axes, _SETTINGS]
        if header and (header[: len(axes)] != axes or header[-1] != _ROWS):
            raise UserError(
                f"{self.path} is of another grid: its columns begin {', '.join(header[: len(axes)])}, and those of this grid "
                f"{', '.join(axes)}; move that file away, or choose another --results-dir"
            )
        for line in lines if self._cells else ():
            key, settings = self._key(line), line[len(self._axes)]
            cell = self._cells.get(key)
            there = ", ".join(f"{name} {value}" for name, value in zip(self._axes, key, strict=True))
            if cell is None and self._without_seed(key) not in {self._without_seed(each) for each in self._cells}:
                raise UserError(
                    f"{self.path} is of another grid: it has {there}, and this grid has {self._values()}; move that file "
                    "away, or choose another --results-dir"
                )
            if cell and cell.settings != settings:
                raise UserError(
                    f"{self.path} is of other settings: {there} was made with settings {settings}, and is {cell.settings} "
                    "here; move that file away, or choose another --results-dir"
                )

    def rows(self) -> dict[tuple[str, ...], list[dict[str, str]]]:
        """Returns the rows of all cells that are done, as they are written, by the cell's key."""
        header, _ = self._read()
        found: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for line in self._whole():
            found.setdefault(self._key(line), []).append(dict(zip(header, line, strict=True)))
        return found

    @property
    def broken(self) -> int:
        """How many lines belong to no whole cell."""
        return len(self.path.read_text(encoding="utf-8", errors="replace").splitlines()) - 1 - len(self._whole())

    def frame(self) -> pd.DataFrame:
        """The rows of all cells that are done."""
        header, _ = self._read()
        text = io.StringIO()
        csv.writer(text).writerows([header, *self._whole()])
        return pd.read_csv(io.StringIO(text.getvalue()), dtype={_SETTINGS: str, "commit": str}) if header else pd.DataFrame()

    def add(self, found: Iterable[tuple[Cell, list[Row]]]) -> None:
        """Writes the rows of some cells beside what is there; rows of cells that are not whole go. Hold a lock."""
        header, _ = self._read()
        lines, new = self._whole(), []
        for cell, rows in found:
            lines = [line for line in lines if self._key(line) != cell.key]
            new += [{**cell.axes, _SETTINGS: cell.settings, **row, _ROWS: len(rows)} for row in rows]
        names = [*header[:-1], *(name for row in new for name in row if name != _ROWS)]
        there = [dict(zip(header, line, strict=True)) for line in lines]
        header = [*dict.fromkeys(names), _ROWS]
        lines = [[_text(row.get(name)) for name in header] for row in (*there, *new)]
        lines.sort(key=self._place)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *lines])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, lambda file: file.write(text.getvalue().encode()))

    def _read(self) -> tuple[list[str], list[list[str]]]:
        """The header, and the lines that have a value for each of its columns."""
        if not self.path.is_file():
            return [], []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        header, *lines = [next(csv.reader([line]), []) for line in text.splitlines()] or [[]]
        return header, [line for line in lines if len(line) == len(header) and line[-1].isdigit()]

    def _whole(self) -> list[list[str]]:
        """The lines of cells that are whole."""
        by_key: dict[tuple[str, ...], list[list[str]]] = {}
        for line in self._read()[1]:
            by_key.setdefault(self._key(line), []).append(line)
        return [line for lines in by_key.values() if all(int(line[-1]) == len(lines) for line in lines) for line in lines]

    def _key(self, line: list[str]) -> tuple[str, ...]:
        return tuple(line[: len(self._axes)])

    def _without_seed(self, key: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(value for name, value in zip(self._axes, key, strict=True) if name != "seed")

    def _values(self) -> str:
        values = {name: dict.fromkeys(_text(cell.axes[name]) for cell in self._cells.values()) for name in self._axes}
        return "; ".join(f"{name} {', '.join(each)}" for name, each in values.items() if name != "seed")

    def _place(self, line: list[str]) -> tuple[int, tuple[str, ...]]:
        """In the order of the grid, seeds beyond it behind."""
        key = self._key(line)
        places = {each: place for place, each in enumerate(self._cells)}
        return places.get(key, len(places)), key


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
