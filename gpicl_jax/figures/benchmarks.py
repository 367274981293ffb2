"""Speed and memory, JAX beside PyTorch."""

import math
import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpicl_jax.figures.style import styled


@styled
def benchmarks(frame: pd.DataFrame) -> Figure:
    """Draws rates of JAX and PyTorch as bars with their spread, a panel for each table, and memory against number of tasks.

    Args:
      frame: rows of `bench.measure.Row`, of one or several benchmarks, with `device`, `threads`, `jax`, `torch`.
    """
    rates = frame[frame.quantity.isin(("tasks/s", "episodes/s", "steps/s"))]
    tables = list(dict.fromkeys(rates.table))
    memory = frame[frame.quantity.isin(("peak MB", "stored MB"))]
    panels = [*tables, "memory"] if len(memory) else tables
    columns = min(2, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(5.6 * columns, 2.9 * rows + 0.4))
    figure.suptitle(_machines(frame), fontsize=9)
    axes_of = figure.subplots(rows, columns, squeeze=False).flat
    for axes, table in zip(axes_of, panels, strict=False):
        if table == "memory":
            _memory(axes, memory)
        else:
            _rates(axes, rates[rates.table == table], frame[(frame.table == table) & (frame.quantity == "× pytorch")])
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    return figure


def _machines(frame: pd.DataFrame) -> str:
    """Returns all devices, threads and versions in the tables."""
    names = {"device": "{}", "threads": "{} threads", "jax": "jax {}", "torch": "torch {}"}
    there = [(text, frame[column].dropna().unique()) for column, text in names.items() if column in frame]
    return ", ".join(text.format(" and ".join(map(str, values))) for text, values in there)


def _rates(axes: Axes, rows: pd.DataFrame, ratios: pd.DataFrame) -> None:
    rows = rows.iloc[::-1]
    colors = ["C1" if side.startswith("pytorch") else "C0" for side in rows.side]
    errors = [rows["median"] - rows.low, rows.high - rows["median"]]
    axes.barh(rows.side, rows["median"], xerr=errors, color=colors, hatch=["//" if c == "C1" else "" for c in colors])
    axes.set_ylim(-0.7, max(3, len(rows)) - 0.3)  # a single bar is no higher than others
    for row in ratios.itertuples():
        axes.text(0, row.side, f" {row.median:.2f} × pytorch", va="center", color="white", fontsize=8)
    axes.set_title("\n".join(textwrap.wrap(rows.table.iloc[0], 48)), fontsize=9)
    axes.set_xlabel(rows.quantity.iloc[0])


def _memory(axes: Axes, rows: pd.DataFrame) -> None:
    """Draws measured peaks of memory. A line shows PyTorch's stored bytes, also beyond the measured numbers."""
    names = rows.side.str.extract(r"(?P<side>\w+), 2\^(?P<exponent>\d+) tasks")
    rows = rows.assign(side=names.side, tasks=2.0 ** names.exponent.astype(int)).sort_values("tasks")
    for number, (side, mine) in enumerate(rows.groupby("side")):
        peaks, stored = mine[mine.quantity == "peak MB"], mine[(mine.quantity == "stored MB") & (mine["median"] > 0)]
        axes.plot(peaks.tasks, peaks["median"], "o^"[number] + "-", color=f"C{number}", label=f"{side}: peak, measured")
        if len(stored):
            axes.plot(stored.tasks, stored["median"], ":", color=f"C{number}", label=f"{side}: the stored tasks alone")
    axes.set(xscale="log", yscale="log", xlabel="number of tasks", ylabel="MB")
    axes.set_title("memory", fontsize=9)
    axes.legend()
